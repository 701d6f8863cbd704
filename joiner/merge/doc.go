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
//     MaxClockSkew, received on j, while j's stream is more than DatesBehind from its server's end. (Dates carry the
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
// and processed what it holds, floor_j = max(floor_j, hlc(t)).
//
// W, the watermark, is the lowest floor. Transactions with csn <= W leave in order of CSN. A shard whose floor
// holds back a waiting transaction is probed.
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
// # Gids that are used again
//
// A transaction is known by its global id, and a later one may have the same. Which PREPAREs belong to a
// decision is settled when it is sealed, not before: then everything of it is received. All PREPAREs of one
// transaction come before all its second phases, so the times for which its fragments are prepared overlap;
// those of an earlier or a later transaction do not overlap with them. A second phase belongs to the oldest
// decision, not sealed, that its fragment overlaps with and that its shard is not closed for; else it is a decision
// of its own. Sealing takes every fragment without a second phase that overlaps: an earlier
// transaction's would have its second phase by now. Clocks may differ by MaxClockSkew in all of this.
//
// BUG(merge): if a global id is used again within MaxClockSkew by a transaction with other participants, their
// fragments may be put together as one transaction. When streams wait for each other because of that, the merge
// stops and says so.
//
// BUG(merge): fragments that were prepared while a shard's clock was wrong by more than MaxClockSkew may be taken for
// another use of their gid, and leave as a transaction of their own. In a backlog of more than DatesBehind, such
// dates may also close a shard too early. Nothing is published while the clocks are seen to differ that much, but the
// dates stay in the WAL when they have been set right.
//
// BUG(merge): that a transaction was rolled back on one shard and committed on another is noticed only if the
// fragment that was rolled back is not the only one known at that time; else each shard's own outcome is
// published.
//
// BUG(merge): a fragment that a list names and that no shard holds (it was prepared before its shard's slot was
// made, or its node is no shard of the subscription) is left out without a word.
//
// BUG(merge): that a fragment turns up too late, because clocks differ by more than MaxClockSkew, is noticed only
// while a second phase of its transaction is outstanding.
//
// BUG(merge): a transaction that was prepared by a plain session and committed by a session with a replication
// origin whose time lies between the PREPARE and the truth has a decision time that is too early; a record of
// another shard may then close that shard too early. Every coordinator known uses one session for both or none.
package merge
