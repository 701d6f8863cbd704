// Package ddl says what a captured DDL statement (package mark) means for a target: which text to run, where, and what
// becomes of the rows of shards that have not run it yet.
//
//	what, err := ddl.Read(&d)         // d comes from the stream, once from every shard
//	what.Run                          // false: it says nothing about rows; the target has its own owners, storage, triggers
//	what.Last                         // run it when the last shard has come to it, else when the first has
//	what.Effects                      // how rows of shards that are still to come to it fit the target's table
//
// # First or last
//
// Without two-phase commit every shard runs a statement in a transaction of its own, at a time of its own, and between the
// first and the last of them rows come in two forms. What makes more rows fit (a new column, table, type, index; a wider
// type; fewer constraints) runs at the first shard's place: rows of the others still fit. What makes fewer fit, or takes
// something away (DROP, DETACH, new constraints, unique indexes), runs at the last one's: until then rows need what it takes.
// So does a column's new default: it means nothing to rows that have the column, and those that have not need the one that the
// column came with.
// A rename, and a statement that does both, runs at the first place, and rows of the other shards are read by the old names:
// see Effect.
//
// # Neither first nor last
//
// A statement that makes other values than rows of the old form become when they are read in the new one (ALTER TYPE … USING
// with more than a cast, a cast that rounds, DROP EXPRESSION) is right at no place while rows come in both forms: it would
// change rows twice, or never. It runs when all shards run it in one transaction; else it stops, and the table is to be
// copied anew when the last shard has run it. See Statement.Between, and Fits.
//
// # Not guessed
//
// The text is taken apart by PostgreSQL's lexical rules, not by its grammar. What cannot be taken apart, what was run by
// something that hides its text, and what gives rows values that only a shard knows (DEFAULT now(), serial columns, CREATE
// TABLE AS) is a Refusal: a person runs it.
package ddl
