// Package node runs subscriptions: it knows the stages and wires them. Nothing is decided here that could be
// decided in a stage.
//
//	Node    for every active subscription of the catalog: get its lease, then
//	        capture = publisher.Open ─► checkpoint ─► joiner ◄─ dumper per shard
//	                  loop: joiner.Next ─► publisher.Publish (durable) ─► joiner.Durable ─► dumper.Confirm
//	Worker  for every target of every active subscription: an apply.Worker
//
// A subscription on a node goes through
//
//	standby ──lease──► starting ──► running ──┐
//	   ▲                  ▲                   │ an error that a retry may mend, or one that needs a person:
//	   │                  └──── failed ◄──────┘ shown in the status, tried again after a pause
//	   └── lease lost, paused, dropped, process stops
//
// Trying again after an error that needs a person is harmless: every check is made anew, and the error is shown
// until it is mended.
package node
