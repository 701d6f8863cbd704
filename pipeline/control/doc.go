// Package control is what shardcdc keeps in JetStream besides the data: the catalog of subscriptions, and the
// leases that say which process works for which of them. It also carries the questions that cdcctl asks the
// running processes, as NATS requests.
//
//	CDC_SUBSCRIPTIONS  KV   key = subscription's name, value = Subscription as JSON
//	CDC_LEASES         KV   key = kind.subscription[.target], value = Owner as JSON; expires unless it is renewed
//	CDC_SKIPS          KV   key = subscription.target.csn, value = Skip as JSON; goes with the subscription
//	CDC_HISTORY             what happened to subscriptions, events as JSON; stays when they go
//	_CDC.status.…      requests: how is this subscription, this target?
//	_CDC.processes     request: who takes part?
//
// Nothing here is on the data path. What a node needs to go on after a crash stands in the stream itself
// (package output/jetstream); a lease only keeps two nodes from working at the same time, the stream's epoch
// keeps them from doing harm if they do.
package control
