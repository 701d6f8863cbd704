// Package bank is a workload with laws, for the demo and for tests: a bank whose accounts are spread over shards. What a
// target may show at any moment is known without knowing what was done, so a reader of the target is a witness:
//
//	b := bank.New(bank.Config{Shards: dsns, Seed: seed})
//	bank.CreateTables(ctx, dsn)                  // on every shard and on the target
//	b.Load(ctx)                                  // the accounts, in one distributed transaction
//	go w.Run(ctx)                                // w := b.Watch(target): looks at the target again and again
//	b.Run(ctx)                                   // traffic until ctx ends; then everything in doubt is finished
//	... wait until the target has caught up ...
//	diff, err := bank.Compare(ctx, shards, target)
//
// # The laws
//
// In every snapshot of the target:
//
//  1. There is no account, or all of them, and together they hold the money that the bank was opened with.
//  2. Each transfer has all its sides (rows of history, one per account, on one to three shards) or none; they add up
//     to zero; and all carry the same version: an amendment, which is a distributed transaction too, shows whole.
//  3. Markers, distributed over every shard and each acknowledged before the next one begins, show whole and without a
//     gap: whoever sees marker m sees every one before.
//  4. Nothing that was seen disappears: markers and the journal only grow.
//
// And at the end source and target are equal, row by row, text by text. The journal has no primary key: a transaction
// applied twice is a row too many, not an error.
//
// # The traffic
//
// Tellers, each with a connection of its own to every shard, move money within a shard (one-phase commit) and between
// shards (PREPARE TRANSACTION on each, COMMIT PREPARED in random order). They lock rows in the order of shards and accounts,
// and wait for each other on the servers, so that one transaction begins where another's second phase is half done. Some
// transactions are rolled back after PREPARE, and now and then a coordinator dies between the phases; another goroutine
// finishes its work later. Notes carry the values that are easily damaged on the way: NULL and empty strings, large values
// that an update leaves alone, binary, arrays, numbers at their limits.
//
// A connection that breaks is made anew; a two-phase transaction whose outcome is unknown is finished as was decided.
package bank
