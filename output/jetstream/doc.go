// Package jetstream publishes a subscription's batches on its JetStream stream: in order, each once, and
// durably before Publish returns.
//
// # The stream
//
// A subscription has one stream with one writer. It holds
//
//	cdc.<subscription>._tx              transactions, or their ends; one unit is one message or several
//	cdc.<subscription>.<schema>.<table> rows, where they are published one by one (output.Payload.Subject); and others like it
//	cdc.<subscription>._ctl.epoch       one message per takeover: the fence
//	cdc.<subscription>._ctl.watermark   a checkpoint alone, when the shards move on without transactions
//	cdc.<subscription>._ctl.checkpoint  a checkpoint that is too large for a header
//
// A unit is a batch of transactions with the checkpoint after it. Its last message carries the checkpoint in
// a header; this is the end mark. A unit of one message is one plain publish, so a durable acknowledgement
// costs one fsync. One of several messages is an atomic batch (JetStream's ADR-50): all transactions are there, or none. A single
// large transaction is a series of batches of at most 8 MB, or of single messages where they may be large (2 MB), since its
// parts mean nothing to a reader until the last is there. A server that stores for itself stages a batch in files of its own
// and copies it, so a batch costs milliseconds, and its messages are written twice: few large units are better than many small.
//
//	_tx 1/20 … _tx 8/20    | _tx 9/20 … _tx 16/20   | _ctl.checkpoint 1/2, 2/2, _tx 17/20 … _tx 20/20 with the end mark
//	atomic batch           | atomic batch           | atomic batch
//
// A payload that is not in memory (output.Large) is pulled through one batch of messages: what is stored is let go
// before more is read. Its number of parts is known from its size. When it cannot be read to its end, the unit has none.
// Payloads that are made one after the other (output.Series), as the rows of a large transaction, go the same way. What is published
// next, by this writer or another, comes behind a new epoch, so a reader never takes the beginning of a unit that has no end for
// the beginning of the one that repeats it: all messages of a unit have one epoch.
//
// The last message of a unit is on _tx or on _ctl.watermark, whatever subjects its others are on, so recovery looks at these two only.
//
// Prepared fragments in doubt make a checkpoint large. Beyond 16 kB it is the payload of messages of its own, in the
// batch that ends the unit, and the end mark names the stream sequence of the first of them. They stand before the
// unit's last message, so for a reader the rule stays: a unit is complete with its end mark, which is its last message.
//
// # The commit point
//
// A unit counts when its last message is acknowledged. That is the only commit point of the capture side:
// positions are confirmed to the shards after it, and a node that starts reads the last checkpoint of the
// stream (Open) and goes on from there. First start and recovery are the same.
//
// # Fencing
//
// Open writes an epoch message. Every publish demands that the epoch is still the last one and that the
// stream's last message is the one this writer knows of. One publish is in flight at a time. So a writer that
// lost its lease without noticing cannot publish, and a publish that was sent twice is stored once.
//
// # When the answer is lost
//
// An answer that has not come when the connection is lost never comes, so the wait ends with the connection. It
// also ends after four times what the last commit took, from 2 to 10 s: the leader that would have answered may be
// dead. A server that then does not even answer a ping is left for another one. What remains, and is not ours: a
// cluster needs 4 to 9 s to elect a leader, and until it has one nothing can be looked up or stored. After that the
// next look (at most 500 ms later; one that is under way ends within 1 s, later 5 s) finds out.
//
// After a time-out, or an answer that says the stream is not where it was expected, the writer looks at the
// stream's end: another epoch means that it is fenced; the stream where it was means that nothing was stored,
// and it tries again; its own unit at the end means that it was stored. A late copy of the first try and the
// second try exclude each other, because both demand the same last sequence.
//
// A full stream (DiscardNew) is back-pressure: the publisher removes what nobody needs any more (Config.Keep), and tries again
// until there is room.
package jetstream
