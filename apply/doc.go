// Package apply replays a subscription's stream on a target: every transaction once, whole, in CSN order.
//
//	for {
//	    session = target.Open()                    // one connection, with what it learned about the tables
//	    from    = session.Progress()               // and the fence: nothing of an older attempt can commit any more
//	    check that the stream is the one that progress belongs to, that it holds the same message from.Seq as when
//	        that was applied, and still holds from.Seq + 1
//	    reader  = source.Open(from.Seq)
//	    for {
//	        units = what has arrived, at least one, at most a limit; never waiting for more
//	        check that units follow progress
//	        session.Apply({from, to, units})       // THE commit point: data and progress in one transaction
//	        from = to
//	    }
//	    on any error: close both, wait, begin again
//	}
//
// # Why it is exactly once
//
// The progress (CSN, stream sequence) is a row of the target and changes in the same target transaction as the
// data. A crash, a lost connection, or a COMMIT whose answer never came leaves both or neither; the loop above
// reads the row and goes on from there. First start and recovery are the same code, and nothing is ever
// acknowledged to the stream: the row is the only position.
//
// Two workers on one subscription exclude each other by a compare-and-swap on that row: From must be what it says, and
// whoever read it last owns it. The one that loses has changed nothing and stops with a Fatal error.
//
// Nothing is missing because three things are contiguous: the stream's sequence numbers (streamReader checks them),
// the CSN of each unit and of the one before (Worker checks them), and progress (the target compares it). A stream that
// was set back to an older state and then written to again is contiguous as well; it is told by the time at which its
// server stored the message that progress stands at (Progress.Stamp), as long as that was not purged.
//
// # Units larger than memory
//
// A unit in parts whose rows take more than Stream.MemoryBytes is not put together. Its head comes first, and when that is
// complete the unit goes to the worker as Arriving: reading its fragments then reads the stream, on the goroutine that
// applies, so back-pressure is the consumer's own and no byte is kept.
//
//	head complete ──► can rows go to the target as they come (Session.Streams), and is it the first attempt?
//	   yes: begin; rows …; Finish: end mark, checksum, counts; compare-and-swap from → to; commit
//	   no:  rows … into files (Config.Spill); Finish; then as any other unit
//
// No row of it is visible, and no progress is written, before Finish has seen the end mark and the checksum. A first
// attempt that fails, whatever the reason, is followed by one from files: no target transaction is open while a stream
// stalls. When the rest does not come for long, the reader looks whether the stream is still the same.
//
// A writer that dies leaves parts without an end (Abandoned). The target transaction is rolled back, and reading goes on
// behind the dead parts: the worker remembers where they end, as a position that the next commit, or idling, writes. A
// worker that starts anew in front of them does it all once more, in vain.
//
// # Copies
//
// Rows that a table held before it was captured travel in the stream as well (package mark). Between the marks begin and
// end of a copy, rows of its tables are missing on the target, and what is there is right; how a target deals with changes
// of missing rows, and loads rows, is its own matter. Which tables are being copied it keeps beside the progress, so no
// restart forgets it (Session.Copies). While there are any, the target is not what the source ever was (Status.Incomplete).
// It is, from the CSN of the mark that ended the last one on (Status.ConsistentFrom). The initial copy's begin mark is the
// first transaction of a stream.
//
// A copied row takes the place of the one with its key. So a key has to be unique across all shards: of rows of two shards with
// one key, the one that came last would stay. Package pipeline/subscribe refuses what it finds; pipeline/verify shows the rest.
//
// # Skips
//
// A transaction that the target refuses may be left out on request (Config.Skips): the progress moves over it, and the
// same target transaction notes what is missing. Only people decide that, for the CSN in Status.Blocked.
//
// # Three kinds of error
//
//	Fatal      the position, the stream or the fence is wrong: Run returns, a person must decide
//	Blocked    the target refuses: a missing table or column, a constraint, a right, a row that is not there.
//	           Status says which and what to do; the worker tries again until it passes
//	any other  the connection broke, the server restarts, a deadlock: tried again with a growing delay
//
// After every error the session is thrown away, so a new attempt sees the target's tables as they are now.
//
// # Several groups at a time
//
// A Group is the unit of work: transactions that become one target transaction. While the target keeps pace a group is what has
// arrived, and one session applies one after the other. A backlog is cut into groups that run on several connections (lanes)
// beside each other, if they touch different rows (Session.Touches, package schedule), and commit in the order of the stream
// (Group.Turn), so a reader of the target sees what the source was at some time, never anything else. See parallel.go, which has
// the invariants. What changes tables, empties or copies them, and units larger than memory, have the target to themselves.
package apply
