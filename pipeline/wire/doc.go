// Package wire is the format named internal, in both directions: a batch of whole transactions as one frame
// (Encoder, Frame, Decoder, Assembly), the state after it (AppendCheckpoint, DecodeCheckpoint), and how both travel
// in the messages of a JetStream stream (headers, subjects, Split, Collector). Publisher and readers share it.
//
// In memory:
//
//	writer                                      reader
//	frame = enc.AppendUnit(frame[:0], batch)    payload, ok = collector.Add(part header, data)
//	for part in Split(frame, max): publish      unit = dec.DecodeUnit(payload)
//	                                            unit.Follows(last CSN); for each fragment: Walk
//
// Larger than memory, the same bytes:
//
//	writer                                      reader
//	frame = enc.Frame(batch)                    assembly = dec.Begin(parts)
//	frame.Size() gives the number of parts      pieces = assembly.Add(part); unit = assembly.Head()
//	frame.WriteTo(parts): publish               keep the pieces; assembly.End()
//
// # The frame
//
// Fixed numbers are big endian, uvarint and varint are those of encoding/binary, a string is its length
// (uvarint) and its bytes.
//
//	the head:
//	magic "CDCU" | version 1 byte | flags 1 byte, 0
//	length 8 bytes, of the whole frame | length 8 bytes, of the head with its checksum
//	previous CSN 8 bytes | first CSN 8 bytes | last CSN 8 bytes
//	relations: uvarint count, each:
//	    uvarint shard | string R message, as received | uvarint count of types, each:
//	        uvarint OID | string schema | string name
//	uvarint transactions | uvarint fragments, of all of them | uvarint relation uses, of all fragments
//	each transaction:
//	    uvarint CSN less the one before | varint commit time | string gid | uvarint fragments, each:
//	        uvarint shard | uvarint xid | uvarint start | uvarint end less start
//	        varint time less commit time | string origin | string gid
//	        uvarint relation uses, each: uvarint offset in the body | uvarint index into relations
//	        uvarint changes | kinds of changes 1 byte (pipeline.Ops) | uvarint length of the body
//	CRC-32C 4 bytes, of everything before
//
//	the bodies, in the order of their fragments, nothing between them
//
//	CRC-32C 4 bytes, of everything before
//
// A unit without transactions has first and last equal to previous.
//
// # Decisions
//
// Rows are never encoded again: a fragment's body is copied as PostgreSQL sent it, and decoded fragments are
// views into the frame. What PostgreSQL said is what arrives; the cost of a row is the copy and the checksum.
//
// All heads stand before all bodies, under a checksum of their own. So a reader knows what a transaction is (its
// place, its tables, its kinds of changes, its size) before it has the rest, can decide where to keep the bodies, and
// can apply them while they come. What it did with them counts only after the frame's end and its checksum.
//
// A unit describes every relation that it uses. A reader may start at any unit and needs no state of a
// connection or of a stream, and a stream may be cut at any unit. The cost is a description (some 20 bytes a
// column) per table and unit, which group commit spreads over all transactions of the unit, and which a
// Decoder parses once and then recognizes by its bytes.
//
// The same rules are checked on both sides (checkTransactions, gate): a writer refuses what no reader would accept,
// because a damaged unit in the stream could never be passed.
//
// Not promised: that rows are well formed. Fragment.Walk checks them when they are read. Fragment.Decides does
// not travel; it has done its work before a transaction leaves.
package wire
