// Package json writes transactions as JSON, in a shape of shardcdc's own: one payload per transaction (Encoder), or one per change
// and one behind them (Rows). It is described for its readers, with examples, in docs/formats.md, and for programs in
// docs/schema/native.schema.json, which tests hold against what is written.
//
//	{"csn":"…","previous":"…","gid":"…"|null,"commit_time":"2026-01-31T12:00:00.000000Z",
//	 "fragments":[{"shard":"a","xid":7,"lsn":"0/16B3860","changes":2,"origin":"…"}],
//	 "total":3,
//	 "changes":[
//	  {"index":0,"shard":"a","op":"insert","schema":"public","table":"accounts","key":{…},"after":{…}},
//	  {"index":1,"shard":"a","op":"update",…,"key":{…},"before":{…},"after":{…},"unchanged":["photo"]},
//	  {"index":2,"shard":"b","op":"truncate","tables":[{"schema":"public","table":"t"}],"cascade":false,"restart_identity":false},
//	  {"index":3,"shard":"b","op":"message","prefix":"…","content":"…"}]}
//
// Row by row, each element of changes is a payload of its own, on the subject of its table, with the fields that tell its transaction
// and its fragment in front; and the object above, with tables ({"schema":"…","table":"…","changes":2}) instead of changes, is the last
// one of the transaction. A truncation is there for each of its tables. Both encoders share the writer of changes, and the tests
// put rows together and compare.
//
// The changes of a transaction are fragment by fragment; where rows may move between shards, what is about rows that go goes first
// (package moves; passes.go).
//
// # Tables
//
// In front of the first change of a table, and of the first one in another form, stands what the table looks like, for each
// shard ("op":"relation"). What an encoder told it remembers: the same batch gives the same bytes only to encoders that
// have encoded the same before. A transaction that is written several times (output.Large) is the same each time. Marks
// (package mark) have ops of their own, "copy" and "ddl".
//
// # Rows
//
// after is the new row, before what PostgreSQL sent of the old one: the identity's columns when they changed or
// the row was deleted, the whole row with REPLICA IDENTITY FULL, else nothing. Four things stay different: NULL is
// null; an empty string is ""; a TOAST value that the update did not touch is named in unchanged and is not in after
// (with REPLICA IDENTITY FULL its value is in before); a column that was not sent is in none of them.
//
// key identifies the row before the change: the columns of the replica identity, from the old row if it was sent,
// else from the new one. It is there whole or not at all. With REPLICA IDENTITY FULL there is none, because
// PostgreSQL then marks every column as identity and does not say which is the primary key; before is the whole row.
//
// # Values
//
//	boolean                    true, false
//	smallint, integer, oid     number
//	bigint                     number up to ±(2^53-1), which every JSON reader keeps exactly; beyond, string
//	real, double precision     number, the shortest digits that give the value; "NaN", "Infinity", "-Infinity"
//	numeric                    string: every digit and the scale are kept
//	json, jsonb                string with the exact text: blanks, order, duplicates and digits survive
//	all others                 string with PostgreSQL's text form; bytea is "\\x…" in hexadecimal
//	not valid UTF-8            {"base64":"…"}: bytes of a database with the encoding SQL_ASCII
//
// A domain is written as its base type. No value that a column can have is written as an object otherwise, so
// base64 is never in doubt. Names of tables and columns that are not valid UTF-8 have no form in JSON and are an
// error: writing them otherwise could make two columns one.
package json
