// Package dumper reads one shard: it holds the replication session with the shard's slot, turns what it gets
// into records (package pgoutput) and hands them to a Sink in WAL order. It also asks the shard for its clock
// and flushed position (probes), and prepares and clears away what a shard needs (Provision, Deprovision,
// Check).
//
//	d := dumper.New(source, sink, dumper.Options{})
//	go func() { err = d.Run(ctx) }()  // reconnects by itself; returns ctx.Err() or a *FatalError
//	d.Probe(7)                        // answered by sink.Probed
//	d.Confirm(lsn)                    // the slot may forget what ends at or below
//
// Two connections: the replication connection, and an SQL connection for probes (and for a moment a third, when a streamed
// transaction with subtransactions ends). Four goroutines, all inside
// Run: the reader (socket → Assembler → Sink.Offer), the writer (status updates, so that a blocked Offer does not
// cost the session), the prober, and the one that reconnects.
//
//	           ┌──────────────── transient error ─────────────┐
//	           ▼                                              │
//	connecting ──► verified ──► streaming ⇄ waiting for room ─┴─► failed (*FatalError)
//	   ▲   (backoff 100 ms … 5 s)
//
// What is promised:
//
//  1. Every record is offered once in a Dumper's life, in rising End, whatever happens to the connections. After a
//     reconnect the stream is asked for from the End of the last record offered; a transaction half received is
//     forgotten and comes again whole.
//  2. The received position R means: every record that ends at or below R was offered, and Offer has returned. It is
//     the maximum of the records' Ends and the positions in keepalives. A keepalive's position is the end of what the
//     walsender has decoded, and everything before it is on the wire before it; but inside a transaction that is sent in
//     one piece it counts no further than the beginning of the commit record. A streamed transaction that is half
//     received holds nothing back: its commit or PREPARE is not decoded yet, so its record ends after R, and a stream
//     asked for from R brings it again as a whole.
//  3. Nothing is confirmed but what Confirm says, and Source.Start, which was confirmed before.
//  4. A slot that cannot give every record after Source.Start is refused: lost, invalidated, ahead, another server,
//     another timeline, another plugin, not two-phase.
//
// Large transactions are streamed before they end, in blocks of at most 16 MB of the server's memory, and small ones come
// between the blocks. What is half received is kept in memory up to Options.Limits and in what Options.Spill makes beyond;
// a write there may block, which is back-pressure as a blocked Offer is. A record's Content belongs to the sink from Offer
// on; if Offer fails, and of whatever never becomes a record, the Dumper releases it. PostgreSQL's faults in streaming are
// worked around, see whole.go: the subtransactions of a streamed transaction are looked up when it ends, on a connection of
// its own, and sessions without streaming follow one in which the server failed.
//
// While there is a backlog the socket is read in gulps, see gulp.go: that makes the server faster. Caught up, every message is
// read at once.
//
// A keepalive says nothing about time: the walsender may not have read what was committed before it answered. So a
// probe first reads the clock and then the flushed position P; once R >= P every transaction that was acknowledged
// before the clock was read has been offered (if it was committed with synchronous_commit on; an asynchronous commit
// is visible before it is flushed).
//
// A fast shutdown of the server waits until everything sent is confirmed, which may take long while the sink waits for
// another shard. So a server that streams but takes no new connections is left at once; what was not confirmed comes
// again afterwards and is offered only once.
package dumper
