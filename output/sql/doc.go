// Package sql writes transactions as statements that a person can run: one payload per transaction, in the dialect of PostgreSQL
// or of MySQL and MariaDB. It is described for its readers in docs/formats.md.
//
//	-- csn 3469010534391808000 previous 3469010534388813824 committed 2026-11-02T09:20:00.000001Z gid "transfer-17"
//	-- shard "a" xid 741 lsn 0/16B3860 changes 1
//	-- shard "b" xid 42 lsn 0/1F04A8 changes 1
//	BEGIN; SET CONSTRAINTS ALL DEFERRED;
//	UPDATE "public"."accounts" SET "balance" = 95.00 WHERE "id" = 1;
//	UPDATE "public"."accounts" SET "balance" = 105.00 WHERE "id" = 2;
//	COMMIT;
//	-- end 3469010534391808000
//
// # Nothing breaks out
//
// Every name is quoted, and every value is a literal that means the same whatever the session's settings are: a string of
// PostgreSQL with anything but plain characters in it is E'…', one of MySQL X'…' (see pipeline/mysql). Control characters are always
// escaped, and so is everything of others in a comment, so a statement is one line and a line that begins with "-- " is a comment
// of this package. The one exception is DDL, which is there to be run: see ddl.go.
//
// # What cannot be right stops
//
// A pure encoder knows no target. Where what it would write can be wrong for one (a TRUNCATE that only some shards ran, a value that
// MySQL does not have), it writes a statement that raises an error in front: whoever feeds the stream to a client stops there,
// reads why, and decides. It never leaves anything out in silence.
//
// # Order within a transaction
//
// Fragments come one after the other. What has to come earlier is moved there: first tables are made, then emptied
// (truncate.go), then rows are deleted that make room for those of other shards (moves.go).
package sql
