// Package verify answers "are they equal?": it compares the shards of a subscription with a target while both are live,
// stops nothing, and calls no row different that is only on its way.
//
//	report, err := verify.Run(ctx, verify.Config{Bus: bus, Subscription: sub, Target: target})
//
// A table is compared in two steps. The first one is fast and asks the databases; it clears rows and accuses none:
//
//	for each slice of the table:                 // a range of keys; or all of it
//		on every server, at the same time:   // count and two sums of 64-bit hashes, per bucket of keys
//		for the buckets that differ:         // fetch key and hashes of every row, from everywhere
//	rows that differ there are suspects
//
// The second one decides about suspects, in rounds, for all tables together:
//
//	first = the target's position                     // cdc.progress
//	on every shard: list what may be committing now   // visible.go
//	                take a snapshot, read the suspects' rows: source
//	until the target has all that was committed then:
//		take a snapshot of the target, read its position X and the suspects' rows
//	read in the stream which suspects are changed between what the source shows and X
//	a suspect is equal      if it was seen equal at any X
//	             different  if it differs at an X, and no change of it lies between the source and X
//	             undecided  else: asked again in the next round
//
// # Why nothing equal is called different
//
// The target at position X shows exactly the transactions of the stream with a CSN of at most X: its progress row changes in
// the same transaction as the data. A shard's snapshot shows exactly the transactions that pg_snapshot says it shows, and
// every fragment in the stream carries its transaction's number. So for each fragment f of the stream it is known whether the
// source shows it (visible) and whether the target does (csn(f) <= X). If for every fragment that changes a row both are
// the same, both sides show the same changes of that row, and they must have the same row. Only then an unequal row
// is called different. What "changes a row" means is its key in the old or in the new row (in a table without a key, the whole
// row); a TRUNCATE changes all; a row that cannot be read in the stream counts as all, too.
//
// This needs all fragments that only one side may show:
//
//   - Visible, and not at X: it was committed when the source's snapshot was taken. Marks that are written to every shard
//     after that, and waited for (package await), prove that it is in the stream by then. It is read behind first.
//   - At X, and not visible. If it is behind first, it is read as well. If it is at or before first, then its commit was in
//     the WAL before first was read and became visible only after the snapshot: between the two it was on one of the lists that
//     were made in between, and so it is known how far back to read: its CSN is not below the time when it was prepared, or
//     when the session's statement began.
//     Prepared transactions: the stream's checkpoint at first lists those whose second phase had not been read (a
//     coordinator that died half way, may be hours ago). If it had been read, a session is in the middle of COMMIT
//     PREPARED, waits for a synchronous standby for example, and names the gid in its statement.
//     One-phase commits: a session with a transaction number that does something other than to wait for its client.
//
// If the stream does not reach back that far, everything that differs is undecided, and the reason says which transaction.
// So a row that a transaction in doubt holds is undecided, with the gid to commit; what is prepared and not committed anywhere
// shows on neither side and does not matter.
//
// The source stands still in its snapshot while the target passes by. A row that changes a hundred times a second is equal
// for some X, or has no change of its own around some X; if it has neither in many rounds, it is undecided, and never different.
//
// # Why nothing different is called equal
//
// Each key belongs to one slice and one bucket, whatever its row is. It is called equal only if, at some moment, the rows of
// its bucket, or its own rows, were the same on both sides as far as their hashes tell. Two sums of independent 64-bit
// hashes have to agree by chance, about 1 in 10^38 per pair; in the second step, values are compared by a hash of each
// column (1 in 10^19). So a difference that is there all the time is found. One that comes and goes within seconds may be
// missed, as by any comparison at one moment.
//
// Equal means: the same text. That is what the stream carries, and it tells apart what "=" does not: 1.0 and 1.00, 0 and -0,
// 1 mon and 30 days, values of json, point or xml. The settings that texts depend on are pinned on all servers. Rows are texts
// of the columns that every shard sends and that the target does not compute, by name; so order, further columns and
// other types with the same text do not matter. If servers have different encodings, everything is hashed as UTF-8.
//
// Slices are ranges of the key's first column only if its type sorts alike everywhere (numbers, uuid, bytea, dates and
// times); texts do not, because collations differ, and are cut by hash alone. Partitioned tables are compared under the name
// under which the stream has them; children of inheritance are tables of their own; row filters and column lists are the
// publications'.
//
// # Repair
//
// A repair takes the lock of the progress row, for which the worker waits with its compare-and-swap: X stands still. It
// makes a round for the rows that are known to differ, and writes the source's rows for those that differ and have no change
// between the source and X: this is what the stream says that they are at X, so the worker goes on from there. Triggers and
// foreign keys do not fire (session_replication_role), as with the worker; so the order of the tables does not matter. A row
// that the target refuses, or that is still different after it was written, is reported as not repaired.
//
// # Not promised
//
// BUG(verify): a transaction that has a replication origin on the shard carries a remote clock's time. If it waits for a
// synchronous standby while it is on the target already, it may not be looked for far enough back, and its rows be called
// different. The same for a shard's clock that is set back by more than a second in that time.
//
// BUG(verify): rows that were on the shards before the subscription, or that come by an initial copy that is still running,
// are reported as missing.
//
// BUG(verify): in a table without a key, texts with bytes that a single-byte locale calls blanks are quoted differently by
// servers of different locales; such rows may be called missing and extra.
//
// BUG(verify): if the worker stops because a row that it wants to change is missing, that row is undecided, because it is
// being changed. Insert it by hand, or skip the transaction and repair.
package verify
