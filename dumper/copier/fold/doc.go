// Package fold brings the rows of a copied chunk to the state that they have at the chunk's place in the global order.
//
// A chunk is read in a snapshot; its place in the order comes later, where its mark comes out of the merge. In between lie
// transactions that the snapshot does not see. A Tracker keeps what they did, and Fold applies it to the rows. It has no
// goroutine, clock, lock or I/O of its own; a Tracker belongs to one shard and is not for concurrent use.
//
// # The caller's loop
//
//	t.Follow(table)                                 // then wait until every writer of this moment has ended
//	for every fragment of the shard, in CSN order, before it is published:
//		moved, err := t.Take(fragment)          // moved: append the keys to the list of those to copy again, durably
//	for every chunk, meanwhile:
//		t.Begin(id, table)
//		lock the table, take the snapshot
//		t.Taken(id, snapshot)
//		read the rows; write a mark into the WAL
//		where the mark comes out of the merge:
//			err := t.Fold(chunk, fragment)  // publish the fragment; if the error is ErrAgain: read the chunk anew
//
// # Assumptions
//
//	A1  Whatever was taken before a table is followed is visible to every snapshot of its chunks. (The caller waits for the
//	    writers that are open when it follows, prepared ones included. The same after each Follow with another key.)
//	    From the first chunk on the table is followed without a gap: who goes on with a copy (after a crash) follows it before
//	    taking anything, or else copies it from its beginning; a row that moved unnoticed might be in no chunk.
//	A2  Take gets every fragment of the shard, in CSN order; Fold is called where the chunk's mark stands in that order.
//	A3  The reader of a chunk has locked the table (ACCESS SHARE) before it takes the snapshot and until it has read the rows.
//	    So no TRUNCATE and no rewrite of the table, which do not respect snapshots, comes between the two.
//	A4  Conflicting transactions do not swap in CSN order, and one that a snapshot sees lies before the chunk's mark
//	    (joiner/merge). If a snapshot sees a transaction, it sees all whose locks that one waited for.
//	A5  From the place on where the copy begins a target gets every change of the table. It applies those of a table with a key
//	    leniently: insert is upsert; update and delete may find nothing. Those of a table without a key it leaves out until
//	    the table's rows arrive.
//	A6  Both sides show values in the same text form.
//
// # Invariants
//
//	I1  A transaction that a chunk's snapshot does not see, and that is taken before the chunk is folded, is either noted
//	    completely or counts as lost; as long as a chunk that is under way, or one that begins later, may need it.
//	I2  A chunk for which a transaction is lost that its snapshot does not see is not folded: ErrAgain.
//	I3  Notes take no more than the limit. When they would, the table that takes most loses all of its own.
//	I4  Every row that Fold writes is, value by value, what the row is on the source at this place of the order.
//	I5  Every row of the chunk that still exists at this place is written, under the key that it has here.
//	I6  Of a table without a key, the rows written are all rows of the table on this shard at this place.
//
// # Why the rows are right (I4, I5)
//
// Let S be the chunk's snapshot, and r one of its rows. What S sees lies before the mark (A4), so at the mark's place r has
// been changed by the transactions that S sees, and by those that it does not see and that were taken before Fold. The first
// are contained in r as it was read: it is the version that S sees, with all its values. By A4 the others come behind the first,
// where they touch r; and among themselves their CSN order is the order in which they did. They are all noted: those taken
// since Follow by I1, and there are no earlier ones by A1. So applying the notes to r, one after the other, gives r at this
// place. An update finds its row by the key that it had (the old tuple if PostgreSQL sent one, else the key did not change);
// an unchanged TOAST value is the one that the row has at this moment, and since r was whole it stays whole.
//
// A transaction that S sees is not applied though other chunks may still need its notes: each transaction is judged by the
// chunk's own snapshot.
//
// # Rows that are not in the chunk
//
// A note of a row that is not in the chunk changes nothing. In particular, what was inserted by a transaction that S does not
// see is not added: it was published as an insert, and the target has it (A5). So a row of the chunk that was deleted and
// inserted again under the same key is not written either. To write it would be right as well; it would be written for nothing,
// by each chunk anew. What cannot be told apart (a deferrable key that two rows have, for a moment) is ErrAgain.
//
// # Rows that get another key
//
// An update may take a row out of a range that is still to be copied into one that was copied before; then no chunk contains
// it. So Take reports both keys of each such update, whoever sees it, and these rows are copied once more, in chunks of keys.
//
// Why none is missing in the end: let a row have the key k when all is copied. If it got k by an insert since Follow, the
// target has it. If it had k at Follow, and kept it, the chunk of k's range contains it. Else it got k from k' by an update m,
// which was reported as the pair (k', k). Let R be the chunk that holds the k' of this pair, and Q the one that holds its k: R
// itself, or a later one. Both begin after m was taken. If R's snapshot sees m, so does Q's, and Q contains the row. If not, m is
// applied when R is folded. Then either R contains the row, under k', and writes it; or the row came to k' by a change m' that
// R does not see either: an insert, then the target has it, and followed it to k; or an update, whose pair stands before
// m's in the list, and for which the same holds: R', the chunk of its first key, comes before R or is R, so it does not see m',
// applies it, and writes the row; under k if m was taken by then, else under k', from where the target moves it when m comes.
//
// This needs one list, in the order of the reports, copied from its front, by one chunk at a time. The caller appends every
// pair as it comes, also if a key is in the list already, or is just being copied; but once every range is in the stream, it may
// leave out a pair whose first key is not in the list (the keys being copied are in it until they are in the stream). Else
// keys that change all the time would keep the list from ever being empty.
//
// Why none is missing even so: behind the ranges, at any place of the order, (J) each row is on the target, or the key that it
// has there is in the list. For let it have the key k. If it has it since Follow, or by an insert, it is on the target. Else it got k
// by an update m of (k', k). If the pair was left out, k' was not in the list when m came, and the ranges were in the
// stream; so by J, at the place before m, the row was on the target, from where m moves it. If the pair was appended, its k is in
// the list still, or Q is in the stream; then the row is on the target by what was said above, where one more case is possible
// now: that the pair of m', which came before m, was left out. Then the row was on the target before m', which moves it, as m
// does. When the list is empty, J says that no row is missing.
//
// Keys are compared as text here. An update sends the first key as the row has it, in the text in which the second key of the
// pair before was sent, unless the table was rewritten in between: so where types or modifiers of the key differ, the
// caller takes any key for one that may be in the list.
//
// A row that gets another key so often that each comes before the one before it was copied still keeps its list from ending.
//
// If Take says that all rows may have moved, the
// caller waits as after Follow, and then copies all ranges anew: every snapshot sees the update.
//
// # Tables without a key (I6)
//
// The chunk is the whole table of the shard, and rows are what names them: a multiset. Fold adds what was inserted and takes
// away what was deleted since; an update is both. A truncation leaves what came behind it. This needs whole old rows (REPLICA
// IDENTITY FULL); where they are not sent, PostgreSQL lets nobody update or delete, unless it is not published at all. The rows
// may be in a Content. It is read only if rows are to be taken away, and is not written again: the fragment's Content leaves
// parts of the chunk's out.
//
// # What is forgotten (I1)
//
// A snapshot sees whatever one that was taken before it sees. So a note may go when the newest snapshot sees its transaction
// (then every chunk to come does), and every chunk under way does: by its own snapshot, or, before that is known, by one that
// was known when the chunk began. Chunks that have to be read again anyway do not count. The same for lost transactions.
//
// # Schema changes
//
// Columns of the chunk and of the changes are matched by name. If the sets differ, or a type, the chunk was read before a
// change of the table that lies before its place: ErrAgain. The same if a statement came by that may have changed the
// table (a mark of DDL), though nothing was written since.
//
// BUG: without DDL capture, a chunk that was read before ALTER TABLE and comes behind it, with no change of the table in
// between, is published in the form in which it was read. It is what the target gets of ALTER TABLE in any case: nothing,
// until the next change.
//
// BUG: an update that brings a row into a publication's row filter arrives as an insert. If it leaves a TOAST value unchanged,
// PostgreSQL does not send that value, and no target can have the row whole, whether it is being copied or not.
package fold
