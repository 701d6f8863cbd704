// Package subscribe makes subscriptions and takes them away again: what cdcctl create-subscription, drop-subscription
// and check do behind their flags. The demo and tests use it too.
//
//	sub, notes, err := subscribe.Create(ctx, bus, subscribe.Spec{Name: "orders", Shards: …, Tables: …})
//	dropped, err := subscribe.Drop(ctx, bus, "orders", subscribe.Options{})
//	findings := subscribe.Check(ctx, bus, spec)   // what Create would complain about, and more; changes nothing
//
// # Create
//
//	validate ─► check ─► provision every shard ─► create the stream, order the copy ─► write the catalog entry
//	                         │                                 │                              │
//	                         └──────────── on any failure: undo what this call made, last first
//
// Nothing looks at a slot or a stream before the catalog names them, so the entry is the commit point: until it is
// written there is no subscription, and whatever the call made is taken away again, also when ctx ends (a user's
// ctrl-C). What could not be taken away is named in the error. All faults that can be found beforehand are found at
// once, before anything is made.
//
// # Drop
//
//	state dropping ─► hold the capture lease ─► shards: slot, publication ─► targets: progress ─► stream ─► entry
//
// Each step may find its work done already. The entry goes last, so whatever stops a Drop, the next one goes on. Only
// what Create made is removed: a slot or a publication that the user gave stays.
package subscribe
