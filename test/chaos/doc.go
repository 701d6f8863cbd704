// Package chaos breaks what shardcdc stands on, piece by piece, and checks after each fault the same promises: nothing is
// lost, nothing comes twice, nothing is torn, the order is kept. A fault that would break one of them has to end in a loud
// stop that names the mend, and then the test asserts what cdcctl status says.
//
//	systematic_test.go  every step that something durable depends on (points_test.go): killed, cut off, paused before and behind it
//	random_test.go    every process killed, paused, restarted at random
//	soak_test.go      the same for as long as you like, with a report (make soak)
//	huge_test.go      a transaction larger than memory (make huge)
//	copy_test.go      every process killed, paused, restarted while tables are copied, again and again
//	copyspeed_test.go a copy, measured (make copy)
//	network_test.go   proxies between everything: cut, stall, freeze, slow, reset
//	servers_test.go   PostgreSQL: shards and the target restarted, a shard down when a node starts
//	cluster_test.go   three NATS servers: killed, paused, restarted
//	stream_test.go    the stream: rolled back, full, its disk full
//	slot_test.go      the slot: dropped, made by hand, invalidated; another server or timeline, an older copy of it
//	doubt_test.go     transactions in doubt for long, gids used again
//	clock_test.go     a shard's clock ahead, behind, stepping (libfaketime)
//	quiet_test.go     shards where nothing, or nothing published, happens
//	poison_test.go    a row that the target refuses
//
// go test runs a selection that takes less than two minutes. CDC_CHAOS=all (make chaos) runs everything. The seed of
// every choice is printed; -seed repeats it.
package chaos
