// Package mysql is the apply.Target for MySQL (8.0 or newer) and MariaDB (10.6 or newer; tested on 10.11).
//
//	Open:   connect, pin the session's settings, make the tables cdc_… if absent
//	Apply:  look up the group's tables; make those that are missing, if that is wished
//	        START TRANSACTION
//	            INSERT …; UPDATE …; DELETE …          -- many statements in a piece, each has to find as many rows as it should
//	            UPDATE cdc_progress …                 -- compare-and-swap
//	        COMMIT                                    -- the commit point
//
// There is one lane: groups run one after the other. What makes it quick are pieces: rows that are inserted into one table one after
// the other are one INSERT, and many statements are one message.
//
// Every error ends the session, and with it what was not committed. The progress names the owner that the latest session wrote
// into it, so nothing of an earlier one can still commit; see progress.go.
//
// # Values
//
// Package pipeline/mysql makes literals, by the kinds of the source's column and of the target's. What MySQL cannot hold is
// Blocked, with the way out: a column of text.
//
// # Which row
//
// An UPDATE or DELETE finds its row by the source's replica identity: the old key when it was sent, else the key
// in the new row. With REPLICA IDENTITY FULL the target's own primary key locates the row, or a unique index on NOT NULL columns,
// if the source sent those columns. Else the old row is compared column by column, characters byte by byte, and exactly one
// such row is taken. A statement that touches no row, or more than one, is an error, never a shrug. (The connection counts rows that
// were found, not rows that became others: an UPDATE may change nothing.)
//
// Of an unchanged TOAST value the UPDATE does not speak. Columns are matched by name; those that the source does not send keep
// their default or value; generated ones are computed on the target.
//
// Names: a table of schema public is in the DSN's database, one of another schema in the database of that name.
//
// # Rows that move between shards
//
// Deletes make room first, and what a fragment did to a row before it deleted it is left out; see package moves.
//
// # TRUNCATE
//
// Many shards feed one table. A TRUNCATE that every shard ran in one transaction empties the target's table, by DELETE, since MySQL's TRUNCATE
// commits: once, before the transaction's other changes to it, and what a fragment did to the table before its own
// TRUNCATE is dropped, because that was wiped on the source. A TRUNCATE that only some shards ran cannot be told from the
// others' rows on the target; see Config.Truncate. Options of the statement (CASCADE, RESTART IDENTITY) mean nothing here: the
// tables that CASCADE reaches are in the stream themselves.
//
// # Tables that are being copied
//
//	mark begin    fail: Blocked while a table holds rows · truncate: it is emptied · merge: nothing
//	              cdc_copying gets a row per table: its rows are incomplete from here on
//	mark rows     the rows of a chunk, as they are on the source at this CSN
//	mark end      the rows of cdc_copying go; with the last one, cdc_progress.consistent_from = this CSN
//
// All of it happens in the target transactions that apply the marks. Meanwhile, of tables with a key, an insert and a row of a chunk take
// the place of the row with the key, updates and deletes may find none, and an update of a key first deletes a row from before that
// has the new key. ON DUPLICATE KEY UPDATE, which knows no particular key, is used only where the target has one unique index; else the row
// is deleted and inserted. Of a table without a key what a shard does before its rows have arrived is left out, since they
// contain it. Why all this is right stands in package apply/postgres, which does the same.
//
// BUG(apply): a table that is renamed on the shards while it is copied is no longer known as being copied.
//
// # Not promised
//
// Triggers of the target fire, and foreign keys with ON DELETE CASCADE do not (foreign_key_checks is off): MySQL cannot switch
// triggers off for a session. DDL of the shards does not run here. Unique keys are checked row by row, in the order of the source.
package mysql
