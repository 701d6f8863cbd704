// Package postgres is the apply.Target for PostgreSQL (tested on 15).
//
//	Open:   connect, pin the session's settings, make the tables of schema cdc if absent
//	Apply:  in one pipeline
//	            BEGIN; SET CONSTRAINTS ALL DEFERRED
//	            DELETE, UPDATE, COPY or INSERT …                      -- as many rows each as were sent
//	        read every result; wait for the turn
//	            UPDATE cdc.progress …; COMMIT                         -- the commit point, in one piece
//
// What asks the catalog, loads the rows of a copy, or follows a mark in the stream is done aside: the pipeline is drained and
// ended, and after it a new one begins, in the same target transaction (writer.aside).
//
// Groups run on several sessions and commit in order. The compare-and-swap on cdc.progress comes last, with COMMIT behind it in
// the same piece; where it does not find the row as it should be it is an error by itself, and the server passes over COMMIT. It
// names the owner that the latest session wrote into the row, so nothing of an earlier one can still commit; see progress.go.
//
// # Few statements
//
// What lies between the transactions of one target transaction nobody can see. So their changes are gathered by table
// (gather.go), those of one row are folded to their net effect (package net), and what is left goes in statements for many
// rows: deletes and updates joined with arrays, inserts by COPY in the midst of the pipeline (set.go). Deletes make
// room first, then updates, then inserts. One by one, in the order of the source, go
//
//   - all changes of a strict table: something fires at them here, which has to see what it would see on the source; and
//     whatever was gathered of other tables goes before each of them;
//   - changes that cannot be told apart by a unique key of the target, change it, or meet a table that is being copied;
//   - transactions with a TRUNCATE, and those in which rows may move between shards;
//   - everything, in a careful attempt. A statement for many rows cannot say which of them an error is about: the attempt
//     fails without naming it, and the next one, which is careful, names it or gets through. It gets through where updates
//     hand on a value of a further unique index, as a swap does; such a table is then sent one by one for some time (ordered).
//
// The table's rows that a statement for many rows touched must be as many as were sent; since the target holds each key once, they
// are the right ones.
//
// Memory is two chunks of statements and what was gathered: views into the group, or, where its rows still arrive, a megabyte of
// copies; whatever the size of a transaction. And what package moves remembers of a transaction in which rows may move between shards,
// up to Config.MovesMax.
//
// A target that answers nothing for long is asked on a second connection what it is doing; see watch.go.
//
// # Values
//
// A value is never decoded: the bytes that pgoutput sent are the statement's parameter, in text or binary as they
// came, of the target column's type; or an element of an array of text, cast to that type, where the cast is the type's
// input function; or a field of COPY. NULL is NULL, an empty string is an empty string, and an unchanged TOAST
// value is a column that the UPDATE does not mention, or what an earlier change of the group made it.
//
// # Which row
//
// An UPDATE or DELETE finds its row by the source's replica identity: the old key when it was sent, else the key
// in the new row. Keys are compared with the operator of an index on the target (OPERATOR(schema.=), so citext
// and friends are right although the search path is empty), by text when there is none.
//
// With REPLICA IDENTITY FULL the target's own primary key locates the row, or a unique index on NOT NULL columns,
// if the source sent those columns. Else the old row is compared column by column by its text, and exactly one
// such row is taken (by ctid, since rows may be equal). The type's "=" will not do: json, xml and point have
// none, and box, circle, path, interval, numeric and -0.0 call different values equal. Text and back is exact for
// every type that PostgreSQL can dump. "=" is added only where an index can serve it.
//
// A statement that touches no row, or more than one, is an error, never a shrug.
//
// # Rows that move between shards
//
// Fragments are applied one after the other, but deletes make room first, and what a fragment did to a row before
// it deleted it is left out (only in transactions of several fragments); see package moves.
//
// # What the target may have of its own
//
// Columns are matched by name; order does not matter. Columns that the source does not send keep their default
// or value. A column GENERATED ALWAYS AS (…) on the target is computed there, and what the source sends for it
// is left out. Identity columns take the source's values; GENERATED ALWAYS AS IDENTITY cannot be updated by
// anybody, so an UPDATE that would change one is Blocked, with the ALTER TABLE that mends it.
//
// session_replication_role is replica: ordinary triggers, foreign keys and rules do not fire, because their
// effects come from the source as rows. Triggers ENABLEd REPLICA or ALWAYS fire.
//
// # TRUNCATE
//
// Many shards feed one table. A TRUNCATE that every shard ran in one transaction empties the target's table:
// once, before the transaction's other changes to it, and what a fragment did to the table before its own
// TRUNCATE is dropped, because that was wiped on the source. (Each TRUNCATE holds its table's exclusive lock until
// its fragment ends, so nothing else could see or write what it wiped.) Tables of other names are not affected by
// the reordering. A TRUNCATE that only some shards ran cannot be told from the others' rows on the target; see
// TruncatePolicy.
//
// # Tables that are being copied
//
//	mark begin    fail: Blocked while a table holds rows · truncate: it is emptied · merge: nothing
//	              cdc.copying gets a row per table: its rows are incomplete from here on
//	mark rows     the rows of a chunk, as they are on the source at this CSN
//	mark end      the rows of cdc.copying go; with the last one, cdc.progress.consistent_from = this CSN
//
// All of it happens in the target transactions that apply the marks. A session reads cdc.copying behind the progress, when no
// older session can change it any more, so a worker that starts anywhere knows what is being copied. A begin mark whose job is
// known is passed over. A job that begins to copy a table that another one copies takes it over.
//
// Each row that a table with a key has is right; rows are only missing. (Why: docs/decisions.md. It is true of a chunk at its
// CSN, and every change keeps it true: a change of a row that is here is applied to it; of one that is not here, it is
// contained in the chunk that brings the row.) Meanwhile
//
//	INSERT            by key an upsert
//	UPDATE, DELETE    may find no row; never more than one
//	UPDATE of a key   of a row that is not here makes none: the new key is copied once more
//
// An upsert needs a unique index of the target that two rows of the source cannot share: one that contains the source's
// replica identity. Where that is the whole row, or nothing, it is the target's first key, which has to be one of the source
// as well. If there is none the transaction is Blocked. A row from before (merge) whose GENERATED ALWAYS AS IDENTITY column cannot
// be updated is deleted first; where a lenient UPDATE cannot set such a column and the row is here with another value, that
// is an error as always, found by a statement of its own. An update of a key first deletes a row from before that has the new
// key. With REPLICA IDENTITY FULL it does not, and is Blocked by such a row: two rows may be swapping their keys there.
//
// Of a table without a key what a shard does before its rows have arrived is left out, since they contain it
// (cdc.copying.arrived lists the shards whose rows are here). So a TRUNCATE means the rows that are here: all of the shards
// that have them ran it: the table is emptied; none of them: nothing; some: TruncatePolicy.
//
// Rows that move between shards need nothing special. The delete may find nothing, and goes first; the insert is an
// upsert; the chunks of both shards are what the shards hold at their CSNs, so the row is in one of them at most.
//
// Rows are loaded by COPY, in text form, straight from the tuples (chunk). COPY cannot replace a row. So there is a savepoint, and
// where a key is met the rows go by way of a temporary table and INSERT … ON CONFLICT; from then on at once, for this
// table and session, as for a merge, and for rows that still arrive and cannot be read twice. COPY is about three times as fast as
// the same rows as inserts, and by way of the temporary table nearly twice as fast as single upserts. An error of COPY names
// table, CSN and COPY's line; the next attempt, which is careful, sends single statements, and names the row.
//
// A transaction that is left out on request keeps its marks (a begin mark then leaves the target's rows as they are), because
// what follows would not be understood without them.
//
// BUG(apply): a table that is renamed on the shards while it is copied is no longer known as being copied.
//
// # Not promised
//
// BUG(apply): under session_replication_role replica PostgreSQL does not recheck DEFERRABLE unique constraints
// (the recheck is a trigger), neither for us nor for its own apply worker. The source checked them per shard.
//
// Sequences are not replicated. DDL is, when the subscription captures it: see ddl.go and package ddl. Behind a connection pooler in transaction mode nothing
// here holds; give the server's own address.
package postgres
