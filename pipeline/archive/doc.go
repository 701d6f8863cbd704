// Package archive is a range of a subscription's stream in a file: to carry a stream where no network leads, and to look at
// it without a server.
//
//	Export: source ─► whole units ─► Writer ─► file.part ─► fsync, rename, fsync of the folder ─► file
//	Import: Open(file) ─► what the stream does not have ─► the same messages under the same sequences
//	cdcctl tail, show, durations: Open(file) is a reading.Source
//
// # The file
//
// Numbers are big endian, uvarint is that of encoding/binary, a string is its length (uvarint) and its bytes.
//
//	magic "CDCA" | version 1 byte
//	sections, each: kind 1 byte | length 4 bytes | CRC-32C 4 bytes, of kind, length and payload | payload
//	    H, one, the first:  JSON, see Head
//	    B, any number:      first sequence 8 bytes | messages 4 bytes | length 4 bytes | zstd of that length unpacked:
//	        each message: time 8 bytes (ns since 1970) | string subject | uvarint header values, each: string name | string value
//	                      string data
//	    E, one, the last:   JSON, see End
//
// Sequences in a block, and from block to block, have no gap. A file without its end, or with a byte changed, is refused
// before anything of it is imported: Open reads all of it.
//
// # What an export promises
//
// It begins where a unit begins and ends where one ends, and holds every message between, also what a dead writer left and the
// epochs, so that readers of the imported stream check it as they check any other: sequences without a gap, each CSN with the
// one before, the incarnation. It has no DSN, so it has no password; names of shards and tables, and rows, it has.
//
// # What an import promises
//
// A message is in the imported stream once, under its own sequence, or not at all: each publish demands that the stream ends
// in front of it. So an import that was killed is repeated, files may overlap, and a file that would leave a gap is refused.
// What the server acknowledged is as durable as that server makes it (docs/operations.md). The times of the messages are those of the
// import; the commit times within are those of the source.
package archive
