// Package apply replays a subscription's stream on a target: every transaction once, whole, in CSN order.
//
//	for {
//	    session = target.Open()                    // one connection, with what it learned about the tables
//	    from    = session.Progress()               // read under a lock: no older attempt is still running
//	    check that the stream is the one that progress belongs to, and still holds from.Seq + 1
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
// Two workers on one subscription exclude each other by a compare-and-swap on that row (From must be what it
// says). The one that loses has changed nothing and stops with a Fatal error.
//
// Nothing is missing because three things are contiguous: the stream's sequence numbers (Stream checks them),
// the CSN of each unit and of the one before (Worker checks them), and progress (the target compares it).
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
// # Where parallel apply goes
//
// A Group is the unit of work: transactions that one Session turns into one target transaction. Today the worker
// cuts the stream into consecutive groups and gives them to one session. Parallel apply is another way to cut:
// package apply/schedule (pure) will take the transactions and the rows that they touch, give groups that touch
// different rows to several sessions of the same Target, and let them commit in the order of their From and To.
// A session then holds back the compare-and-swap and the COMMIT of its group until it is its turn, and the
// compare-and-swap still proves the order. Source and what a session does with rows stay as they are.
package apply
