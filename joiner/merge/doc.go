// Package merge puts distributed transactions together and orders them. It is the brain of shardcdc: a state
// machine without goroutines, clocks, locks or I/O. Records of the shards go in, batches of whole transactions
// in one global order come out, acknowledgements go back in. The same calls in the same order always give the
// same output.
//
// # The caller's loop
//
//	m := merge.New(config)                          // Start: the stream's last checkpoint
//	for {
//		m.Offer(shard, records, received)       // as a shard's stream arrives, while m.Admits(shard)
//		for p := range m.Probes(nil) { ask p.Shard for (its clock, then its flushed WAL end) }
//		m.Probed(shard, id, clock, flushed)     // as the answers arrive
//		batch, ok := m.Take(bytesMax)           // publish it, durably, as one unit
//		m.Durable(&batch.Checkpoint)            // in the order of Take
//		confirm m.Confirmed(shard) to the slot
//		m.Idle(), and a little later m.Heartbeat(), while nothing leaves
//	}
//
// # State
//
// For every shard:
//
//	received   how far its stream has arrived
//	queue      records that arrived and are not processed, because the stream is paused at the first
//	processed  how far its records are processed
//	floor      the highest CSN that the stream has reached by processing
//
// A record passes two gates. At intake (Offer) it is matched: a PREPARE is kept under its global id, the first
// second phase makes it a transaction, evidence of completeness is gathered. In processing it moves its shard's floor. Intake never
// waits; processing stops at a second phase (or another decision) whose transaction has no CSN yet.
//
// A distributed transaction T goes through
//
//	PREPARE received (first)
//	         │
//	    ┌────▼─────┐   all its fragments rolled back
//	    │ undecided├──────────────────────────────────► forgotten
//	    └────┬─────┘
//	         │ a COMMIT PREPARED, or a commit that lists T's gids, is received
//	    ┌────▼────┐
//	    │ decided │ every other shard is probed
//	    └────┬────┘
//	         │ every shard is known to have received all it will ever hold of T
//	    ┌────▼───┐
//	    │ sealed │
//	    └────┬───┘
//	         │ every PREPARE of T is processed
//	    ┌────▼───┐     csn <= watermark     ┌───────┐
//	    │ placed ├─────────────────────────►│ taken ├──► forgotten when every second phase is
//	    └────────┘                          └───────┘    processed and passed by a checkpoint
//
// # Rules
//
// One-phase commit S on shard i: csn(S) = the smallest unused value that is at least hlc(commit time) and above
// floor_i; floor_i = csn(S). S is a transaction of one fragment. The time of a commit with a replication origin
// is a remote clock's and is not used.
//
// PREPARE of T on i: bound_i(T) = floor_i when it is processed.
//
// T is sealed when each shard j is closed for T. A shard is closed for T by one of
//   - a second phase of T received on j (no PREPARE of T follows it there);
//   - received_j >= probe_j, a flushed WAL position that was asked for after T's decision had been received;
//   - a record of j's own (no replication origin, not a second phase) dated later than T's decision plus
//     MaxClockSkew, received on j since its clock last stepped back, while j's stream is more than DatesBehind from its server's end. (Dates carry the
//     merge through a backlog, where a probe's position is gigabytes away. Near the end they are not needed, and a
//     clock that was wrong when they were written does no harm.)
//
// If a decision lists T's gids (Decides) and all are in, the shards that have a fragment of T suffice. (Without
// evidence from these shards, a fragment that is in might be an earlier transaction's with the same gid.)
//
// csn(T) is the smallest unused value at least hlc(T's latest prepare time), above every bound and above W.
// When a second phase of T is processed on j: floor_j = max(floor_j, csn(T)).
//
// A probe's answer (clock t, flushed P) also says that time has passed: once the stream has received up to P
// and processed what it holds, floor_j = max(floor_j, hlc(t), X), where X is the highest CSN that waited when
// the probe was asked. (What had that CSN was committed before, and what j shows behind P was not acknowledged before.
// So a commit dated in the future, by a clock that was ahead, is not held back until the clocks of idle shards are there.
// From then on CSNs run ahead of the clocks, and rise by counting, until the clocks have caught up.)
//
// W, the watermark, is the lowest floor. Transactions with csn <= W leave in order of CSN. A shard whose floor
// holds back a waiting transaction, the highest as well as the lowest, is probed.
//
// # Invariants
//
//	I1  A floor never falls; so W never falls.
//	I2  A CSN is given once, and is above the W of that moment.
//	I3  A transaction leaves only when it is sealed and all its fragments are processed: whole.
//	I4  Transactions leave in strictly rising CSN.
//	I5  On one shard, a one-phase commit that is not taken yet has a higher CSN than every taken fragment
//	    whose record lies before it, and a lower one than every fragment whose record lies behind it.
//	I6  Confirmed(i) <= Safe of the last durable checkpoint, which lies at or before the start of every
//	    PREPARE on i that is neither in the stream nor rolled back.
//
// # Why the order is right
//
// Let S and T conflict on shard i and S come first. If T is two-phase, S committed before T prepared there (T
// needed S's locks), so csn(S) <= bound_i(T) < csn(T). If S is two-phase, T's record lies behind S's second
// phase on i, so csn(T) > floor_i >= csn(S). Records between a PREPARE of T and its COMMIT PREPARED on i cannot
// conflict with T there, so their order is free.
//
// Nothing that depends on T can have left before T is placed: it lies behind a second phase of T on some
// participant p, processing on p stops there, so floor_p, and with it W, stays below it.
//
// T is whole: every PREPARE of T is flushed before any second phase of T begins. So on each shard j it lies
// below any flushed position asked for after a second phase was seen; and a record of j's own that is dated
// later than the second phase by more than the clocks differ was written after it.
//
// # Why it cannot get stuck
//
// A paused stream waits for other shards to receive, which depends on no one's processing, and for PREPAREs of
// T to be processed; these were written before T's second phase. Following "waits for" from a paused stream
// goes strictly back in physical time, so it ends at a shard that can go on. An undecided transaction blocks
// nothing.
//
// # Restart
//
// Every unit carries a Checkpoint. By I5 what is in the stream is, on each shard, everything up to one position
// (Through) but for some prepared fragments (Pending). So the last checkpoint tells of each record that is sent
// again whether it is dealt with, by its position and never by its CSN: a restarted merge may choose other CSNs
// (all above the checkpoint's watermark). A second phase whose PREPARE is not sent again is known from Open.
//
// # Gids that are used again, and clocks that were wrong
//
// A transaction is known by its global id, and a later one may have the same. Which PREPAREs belong to a
// decision is settled when it is sealed, not before: then everything of it is received. All PREPAREs of one
// transaction come before all its second phases, so the times for which its fragments are prepared overlap;
// those of an earlier or a later transaction do not overlap with them, for a coordinator uses a gid again only when every
// second phase of the use before is done. A second phase belongs to the oldest
// decision, not sealed, that its fragment overlaps with and that its shard is not closed for; else it is a decision
// of its own. Sealing takes every fragment without a second phase that overlaps: an earlier
// transaction's would have its second phase by now.
//
// Two kinds of evidence say that a fragment is not T's. Positions: it ends behind what closed its shard for T, so it was
// prepared after T was decided. That needs no clock; near the streams' ends it tells the uses of a gid apart within a
// round trip. Dates: it was prepared at another time, clocks differing by MaxClockSkew. Dates can be wrong, so:
//
//   - Along a shard's WAL dates go forward. Where they go back by more than MaxClockSkew and stampDelay, the clock was set,
//     and what is dated later than the new time, before, and what is dated earlier than the old one, behind, is disputed.
//     (A probe's clock at its position counts as a date. A clock that was wrong for a while steps back once, when it
//     becomes wrong or when it is mended.) Disputed dates keep no fragment away from T: positions alone do. A decision
//     that was made because of dates which are disputed by now is taken into T when T is sealed.
//   - T is not sealed without a fragment that its date alone keeps away before both shards' streams have reached a
//     probe that was asked since, for a step may show further on. Nor is it sealed with one that is T's only because clocks
//     may differ (a gap between the times, or a dispute) before every shard's stream has: were it another use's, the
//     PREPAREs of that use lie before its second phase, so they are received by then.
//   - What is ambiguous then is refused: a fragment that T has although there is a gap, while it overlaps with one of
//     another use or another one of its shard overlaps with T; a fragment in dispute while another use is under way. Either
//     way a transaction could be torn. A transaction that might hold another's fragment is remembered beyond its end,
//     until the watermark is further on than anything that could contradict it.
//   - More than DatesBehind from its server's end a stream's dates are believed.
//
// So: as long as a global id is used once, a clock that was wrong by any amount tears nothing if its step back is in the
// stream, or the probe shows it; and never stops the merge. As long as clocks are within MaxClockSkew and gids are not used
// again before it has passed, nothing is ever ambiguous, but for two cases, which stop the merge although
// all is well: what was prepared more than MaxClockSkew and stampDelay before a restart is in dispute when it is sent again; and
// in a backlog one stream may show the next use before another one shows the end of the use before.
//
// BUG(merge): no step back is seen if the shard is idle for longer than its clock is ahead when it is mended, or was idle for
// longer than it is behind when it became wrong; nor if the clock is corrected slowly. What was prepared meanwhile is taken
// for another use of its gid, and leaves as a transaction of its own. (Nothing is published while the clocks are seen to
// differ; this is about what lies in the WAL afterwards.) The same holds in a backlog of more than DatesBehind, where such
// dates may also close a shard too early.
//
// BUG(merge): if a global id is used again within MaxClockSkew by a transaction with other participants, and streams lag by
// that much, the two may leave as one, even if the later one is still in doubt; if clocks really differ by more than the
// time between the two uses, one may be torn.
//
// # Lists
//
// What a list names is T's as far as positions allow, whatever its date. If a list names a fragment that no shard holds when every shard is closed, and the transaction has rows, the merge stops:
// a node of the cluster is no shard of the subscription, and its part of the data is missing. Two cases are no fault: of a
// transaction without rows, fragments that were dealt with are not sent again after a restart; and what was decided when the
// reading of a new stream began may have a fragment before the beginning of another shard's slot.
//
// BUG(merge): that a transaction was rolled back on one shard and committed on another is noticed only if the
// fragment that was rolled back is not the only one known at that time; else each shard's own outcome is
// published.
//
// BUG(merge): that a fragment turns up too late, because clocks differ by more than MaxClockSkew, is noticed only
// while a second phase of its transaction is outstanding.
//
// BUG(merge): a transaction that was prepared by a plain session and committed by a session with a replication
// origin whose time lies between the PREPARE and the truth has a decision time that is too early; a record of
// another shard may then close that shard too early. Every coordinator known uses one session for both or none.
package merge
