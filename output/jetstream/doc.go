// Package jetstream publishes a subscription's batches on its JetStream stream: in order, each once, and
// durably before Publish returns.
//
// # The stream
//
// A subscription has one stream with one writer. It holds
//
//	cdc.<subscription>._tx              transactions; one unit is one message or several
//	cdc.<subscription>._ctl.epoch       one message per takeover: the fence
//	cdc.<subscription>._ctl.watermark   a checkpoint alone, when the shards move on without transactions
//
// A unit is a batch of transactions with the checkpoint after it. Its last message carries the checkpoint in
// a header; this is the end mark. A unit of one message is one plain publish, so a durable acknowledgement
// costs one fsync. One of several messages is an atomic batch (JetStream's ADR-50). One that is larger than a
// batch should be (8 MB, 1000 messages) is a series of batches, and this happens to single large transactions only:
// their parts mean nothing to a reader until the last is there.
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
// After a time-out, or an answer that says the stream is not where it was expected, the writer looks at the
// stream's end: another epoch means that it is fenced; the stream where it was means that nothing was stored,
// and it tries again; its own unit at the end means that it was stored. A late copy of the first try and the
// second try exclude each other, because both demand the same last sequence.
//
// A full stream (DiscardNew) is back-pressure: the publisher tries again until there is room.
package jetstream
