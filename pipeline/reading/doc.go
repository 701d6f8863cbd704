// Package reading reads a subscription's stream for people: transactions, whatever the stream's format and layout, and
// where in the stream each stands and when it came there. It leaves no trace, in NATS or in a file.
//
//	source = Live(…), or an exported file (package pipeline/archive)
//	begin  = First(source, where to begin)
//	source.Read(begin): for each message: for each tx of reader.Add(message): show
//
// # What is shown, and what never is
//
// Nothing of a unit comes out before its end mark: its writer may have crashed, and the next one writes it anew, perhaps
// under other CSNs. So a reading begins at a unit's beginning, which the messages name (Cdc-Unit). Where that is not in the
// stream any more, it begins behind the unit's end.
//
// Of a transaction larger than a limit only the head comes out: what it is, where it comes from, how large it is.
//
// Apply workers do not use it: they check more (sequences without a gap, checksums of rows that do not fit memory) and
// know one format only.
package reading
