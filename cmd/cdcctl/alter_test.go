package main

import (
	"strings"
	"testing"
	"time"

	"shardcdc/pipeline/control"
)

// TestAlter: a stream that is too small for one transaction, and a TRUNCATE that stops a target, have their way out.
func TestAlter(t *testing.T) {
	w := newWorld(t)
	w.startNode()
	w.startWorker()
	w.create("small", "--shard", "a="+w.a, "--shard", "b="+w.b, "--target", w.target, "--stream-bytes-max", "64kB")
	w.sql(w.a, "INSERT INTO accounts SELECT n, repeat('x', 1000), 1 FROM generate_series(1, 1000) n")
	w.until("the stream is full", func() bool {
		return strings.Contains(w.run(0, "status", "small").out, "Try: cdcctl alter-subscription small --stream-bytes-max BYTES")
	})
	w.wants(w.run(1, "alter-subscription", "small", "--stream-bytes-max", "9000PB", "--retain", "6h").err, "change the limit of stream CDC_small", "Try: less")
	w.wants(w.run(0, "alter-subscription", "small", "--stream-bytes-max", "64MiB").out, "Subscription small is changed: --stream-bytes-max 64MiB")
	w.run(0, "wait", "small", "--for", "applied")

	w.sql(w.a, "TRUNCATE accounts")
	w.until("the target is blocked", func() bool {
		return strings.Contains(w.run(0, "status", "small").out, "Try: cdcctl alter-subscription small --truncate apply (empty the table), or --truncate ignore")
	})
	w.wants(w.run(2, "alter-subscription", "small", "--truncate", "maybe").err, `truncate "maybe" is unknown. Try: stop, apply or ignore`)
	w.run(0, "alter-subscription", "small", "--truncate", "apply", "--retain", "6h")
	w.run(0, "wait", "small", "--for", "applied")
	if got := w.query(w.target, "SELECT count(*)::text FROM accounts"); got != "0" {
		t.Errorf("the target has %s rows", got)
	}
	var subs []control.Subscription
	w.decode(w.run(0, "list", "-o", "json").out, &subs)
	if s := subs[0]; s.Truncate != "apply" || s.Retain != control.Duration(6*time.Hour) {
		t.Errorf("after alter: %+v", s)
	}
	w.wants(w.run(0, "history", "small").out, "--stream-bytes-max 64MiB", "--retain 6h0m0s --truncate apply")
	w.run(0, "drop-subscription", "small")

	w.create("feed", "--shard", "a="+w.a)
	w.wants(w.run(1, "alter-subscription", "feed", "--retain", "6h").err, "subscription feed has no target", "Try: nats stream purge CDC_feed --seq N")
	w.run(0, "alter-subscription", "feed", "--retain", "0")
	w.run(0, "drop-subscription", "feed")
	w.nothingLeft()
}
