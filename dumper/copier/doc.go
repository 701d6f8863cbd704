// Package copier reads the rows that a shard has already: tables, in chunks that are ranges of a key, each in a snapshot of
// its own.
//
//	s := Open(shard)
//	for each table of s.Tables():
//		s.AwaitWriters()
//		for each range of s.Split(table):
//			until the range ends:
//				tracker.Begin(id)                               // package fold
//				result := s.Chunk(id, range, taken: tracker.Taken)
//				s.Emit(mark of id)                              // where it comes in the stream, the chunk is folded
//				range.After = result.Last
//
// # What a chunk is
//
// One transaction, REPEATABLE READ and READ ONLY. Its first act is to lock the table against changes of its definition, which
// takes no snapshot; then comes the snapshot, so the definition that the snapshot shows is the one that the rows are read
// with. A definition read before is used again only if no row of the catalog that it depends on is another one now.
//
// The rows are those with a key in the range, in the order of the key, as the index of the key sorts them: its own operators
// and collations, never those that a name would find. So a chunk may end behind any row, and it does when it has as many
// rows, or bytes, as it may have: what is behind is the next chunk's. Every row is in one range of Split, and in one chunk.
//
// # What rows look like
//
// As pgoutput would send them at the time of the snapshot: the columns of the publication's column list, without generated
// ones that are not published, only rows that pass its row filters, in the text form of the same settings; the table is
// described by the bytes of the Relation message that the shard would send. Of a table without partitions the rows of tables
// that inherit from it are not read: they are published under names of their own.
//
// Rows are read with SELECT, not with COPY: both take their text from the same output functions, but the rows of a SELECT
// come as lengths and bytes, as those of pgoutput do, with nothing to unescape, and that was 10 % faster (PostgreSQL 15).
//
// # What is not promised
//
// A partition that joins a published table brings rows that no change announces; a copy that runs meanwhile may or may not
// have them.
package copier
