// Package sim runs joiner/merge, or anything with its methods, through random worlds and judges what comes
// out by physical truth.
//
// A World is the whole physical history of a sharded cluster, made first and without any capture: which
// transaction locked, read and wrote what at which true instant, and what each shard's WAL holds in the end.
// Run then reads these WALs as a node would: with lag, in batches of any size, through crashes and restarts.
// The oracle knows the world and nothing of how the merger decides; it is simple on purpose:
//
//	atomic     a transaction leaves with exactly the fragments that the world committed under it
//	ordered    CSNs rise strictly over the whole run; a real conflict (same row, one of the two wrote; or one
//	           read what the other wrote) leaves in physical order; real time is kept beyond the clocks' error
//	complete   everything committed is in the stream at the end, nothing rolled back or undecided ever is
//	once       each transaction is there once, whatever crashed in between
//	safe       no stored checkpoint and no confirmed position passes a fragment that is still needed, or lies
//	           inside a PREPARE record
//	never stuck  once the world is quiet everything leaves in a bounded number of rounds, in-doubt
//	           transactions hold nobody up, and positions go on to the end of the WAL
//
// What the oracle does not ask: the order of two transactions that share no row; reads on a shard where the
// reader left no trace in the WAL, closer together than the clocks' error (no reader of WALs can know these);
// real time of transactions with a replication origin, whose times are another cluster's.
//
// Everything follows from Options, which follow from one seed. A failure is shrunk by leaving transactions
// and features out while it stays a failure; every transaction draws from a generator of its own, so that
// leaving one out does not change the others.
package sim
