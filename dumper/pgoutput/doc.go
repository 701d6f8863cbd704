// Package pgoutput turns the messages of PostgreSQL's logical decoding plugin pgoutput into records of a
// shard's stream: bytes in, pipeline.Record out. It is pure: no clock, goroutine, lock or I/O of its own.
//
//	a := pgoutput.New(shard, limits)
//	for each XLogData of the session {
//		rec, ok, err := a.Feed(walStart, payload) // payload may be changed, and reused afterwards
//		if err != nil { the session is broken: Reset, nothing half received may be used }
//		if ok { hand rec on }
//	}
//
// It expects the options proto_version '3', two_phase 'on', messages 'true', streaming 'on' or off, and binary off
// (PostgreSQL documentation, chapter "Logical Replication Message Formats"; the formats of versions 15 to 18
// are the same byte for byte):
//
//	         B (begin)                    C (commit)
//	outside ───────────► in a one-phase ────────────► outside, Commit
//	         b (begin prepare)            P (prepare)
//	outside ───────────► in a two-phase ────────────► outside, Prepare
//	outside ── K (commit prepared), r (rollback prepared) ──► outside
//
//	         S (stream start)     E (stream stop)
//	outside ───────────► in a block ────────────► outside, any number of times, and then
//	outside ── c (stream commit) ──► outside, Commit
//	outside ── p (stream prepare) ──► outside, Prepare
//	outside ── A (stream abort) ──► outside; the transaction or a subtransaction of it is gone
//
// O (origin) may follow a begin, or the S of a first block; I, U, D, T and M (row changes, truncation, logical message)
// come inside a transaction or block; R and Y (relation, type) come anywhere. Every other message and every other order
// is an error, so nothing is ever skipped because it was not understood.
//
// What is left out of a fragment's body, and only this:
//   - Non-transactional logical messages. They belong to no transaction, PostgreSQL sends them even when the
//     transaction that wrote them rolls back, and their place between transactions carries no order.
//   - Transactional logical messages with a prefix that starts with "cdc.": this program's own, but for the
//     subscription's own marks (package mark), which mean something to readers of the stream.
//   - Changes of Citus' metadata tables (pg_catalog.pg_dist_*), which a publication FOR ALL TABLES contains.
//     Inserts into pg_dist_transaction list the gids that the transaction decides; they go to
//     Fragment.Decides.
//
// # Streamed transactions
//
// A large transaction comes before it has ended, block by block, between the blocks of others and the ordinary
// transactions that commit meanwhile. Its body is the same as if it had come in one piece: the numbers of
// (sub)transactions that its messages carry are taken out.
//
// When a subtransaction is rolled back (to a savepoint, by an exception block), the body is cut off where its first
// change stands. That is exact:
//   - From the first change of a subtransaction until its end only it and its descendants write: a backend has one
//     subtransaction at a time, and the parent goes on only when the child has ended.
//   - Descendants that were released before are undone with it.
//   - The abort is sent when the server reads its record, and changes are sent in the order of their records. So the
//     body holds nothing yet of what was written after the end of the subtransaction.
//
// The server announces descendants first. To cut at one of them is right, too: all that follows belongs to a
// subtransaction that the same record undoes. A subtransaction without a place in the body has no changes there, or they
// are behind a place that was cut already.
//
// BUG(PostgreSQL): the server does not announce every subtransaction that was rolled back (seen on 15 to 17: one that had
// more than 4096 changes on the server's disk when it was streamed, and none streamed afterwards, as after a reconnect
// in the middle of it. ReorderBufferMaybeMarkTXNStreamed looks at the changes in memory, of which there are none left.)
// So a record of a streamed transaction must not be used before its subtransactions, Kept, were looked up on the server.
//
// Each streamed transaction describes its relations itself, because it may see versions that others do not see yet. When
// it commits, PostgreSQL takes them for described in the session; when it is prepared or aborted it does not.
//
// A subtransaction that has changes takes about 80 bytes of memory until the transaction ends; the walsender itself takes
// several times that.
//
// # Memory
//
// Bodies of transactions half received are in memory up to Limits, and beyond in what Limits.Spill makes. A body that
// was spilled stays so: its fragment has Content instead of Body. The content belongs to whoever gets the record, who
// releases it; what is discarded, or forgotten by Reset, the Assembler releases.
package pgoutput
