package main

import (
	"regexp"
	"strings"
	"syscall"
	"testing"

	"shardcdc/pipeline/control"
)

func TestLifecycle(t *testing.T) {
	w := newWorld(t)
	r := w.create("bank", "--shard", "a="+w.a, "--shard", "b="+w.b, "--target", w.target)
	w.wants(r.out, "cdc_bank", "Subscription bank is made")
	w.wants(w.run(1, "create-subscription", "bank", "--shard", "a="+w.a).err, "subscription bank exists already. Try: cdcctl status bank")
	w.wants(w.run(0, "status", "bank").out, "bank: no node runs it. Try: cdcd node", "no worker", "Try: cdcd apply")
	w.wants(w.run(1, "wait", "bank", "--for", "published", "--timeout", "300ms").err, "not published within 300ms", "a node to run it: none does")

	w.startNode()
	w.startWorker()
	w.run(0, "resume", "bank") // active already: waits until it runs
	w.transfer("xfer-1")
	w.sql(w.a, "UPDATE accounts SET balance = 7 WHERE id = 1", "DELETE FROM accounts WHERE id = 1")
	w.wants(w.run(0, "wait", "bank", "--for", "applied").out, "Everything committed before is applied, after ")
	if got := w.query(w.target, "SELECT id || owner || balance FROM accounts ORDER BY id"); got != "2Bob5" {
		t.Errorf("the target has %q", got)
	}
	w.lists(t)
	w.tails(t)

	w.wants(w.run(0, "pause", "bank").out, "Subscription bank is paused.")
	w.wants(w.run(0, "status", "bank").out, "bank: paused. Try: cdcctl resume bank")
	w.wants(w.run(1, "wait", "bank", "--for", "applied").err, "subscription bank is paused. Try: cdcctl resume bank")
	w.sql(w.b, "INSERT INTO accounts VALUES (3, 'Carol', 1)")
	w.wants(w.run(0, "resume", "bank").out, "Subscription bank runs.")
	w.run(0, "wait", "bank", "--for", "applied")
	if got := w.query(w.target, "SELECT count(*)::text FROM accounts"); got != "2" {
		t.Errorf("after the pause the target has %s rows", got)
	}
	w.wants(w.run(0, "check", "bank").out, `slot "cdc_bank_a" is there`, "0 errors")

	r = w.run(0, "drop-subscription", "bank")
	w.wants(r.out, "removed shard a: slot cdc_bank_a", "removed shard b: publication cdc_bank", "progress of bank", "schema cdc", "removed stream CDC_bank", "Subscription bank is gone.")
	w.nothingLeft()
	w.wants(w.run(1, "drop-subscription", "bank").err, "no such subscription")
	w.wants(w.run(1, "status", "bank").err, "no such subscription. Try: cdcctl list")
}

// transfer is a distributed transaction over both shards.
func (w *world) transfer(gid string) {
	w.Helper()
	w.sql(w.a, "BEGIN; INSERT INTO accounts VALUES (1, 'Alice', 95); PREPARE TRANSACTION '"+gid+"'")
	w.sql(w.b, "BEGIN; INSERT INTO accounts VALUES (2, 'Bob', 5); PREPARE TRANSACTION '"+gid+"'")
	w.sql(w.a, "COMMIT PREPARED '"+gid+"'")
	w.sql(w.b, "COMMIT PREPARED '"+gid+"'")
}

func (w *world) lists(t *testing.T) {
	t.Helper()
	w.wants(w.run(0, "list").out, "NAME", "bank", "active", "internal", "a,b", "target1")
	var subs []control.Subscription
	w.decode(w.run(0, "list", "-o", "json").out, &subs)
	if len(subs) != 1 || subs[0].Shards[1].DSN != w.b {
		t.Errorf("list -o json: %+v", subs)
	}
	text := w.run(0, "status").out
	w.wants(text, "bank: running on node n1", "watermark", "published", "SHARD", "streaming", "TARGET", "caught up")
	var r report
	w.decode(w.run(0, "status", "bank", "--output", "json").out, &r)
	if r.Capture == nil || r.Capture.Distributed != 1 || r.Capture.Transactions < 3 || len(r.Capture.Shards) != 2 || len(r.Apply) != 1 || r.Apply[0].AppliedSeq == 0 {
		t.Errorf("status -o json: %+v", r)
	}
	if r.Capture.Shards[0].Published == 0 || r.Capture.Watermark < r.Capture.PublishedCSN {
		t.Errorf("status: %+v", r.Capture)
	}
	var all []report
	w.decode(w.run(0, "status", "-o", "json").out, &all)
	if len(all) != 1 {
		t.Errorf("status without a name: %d reports", len(all))
	}
}

var positions = regexp.MustCompile(`csn \d+  \S+|@[0-9A-F]+/[0-9A-F]+`)

func (w *world) tails(t *testing.T) {
	t.Helper()
	text := w.run(0, "tail", "bank", "--follow=false").out
	want := `csn  gid "xfer-1"  a  b
  a  relation public.accounts  (id int4, owner text, balance numeric)
  a  insert public.accounts  id=1 owner="Alice" balance="95"
  b  relation public.accounts  (id int4, owner text, balance numeric)
  b  insert public.accounts  id=2 owner="Bob" balance="5"
csn  a
  a  update public.accounts  [id=1]  id=1 owner="Alice" balance="7"
csn  a
  a  delete public.accounts  id=1
`
	scrubbed := positions.ReplaceAllStringFunc(text, func(s string) string {
		if strings.HasPrefix(s, "@") {
			return ""
		}
		return "csn"
	})
	if scrubbed != want {
		t.Errorf("tail:\n%s\nwant\n%s", text, want)
	}
	var csns []string
	for _, m := range regexp.MustCompile(`csn (\d+)`).FindAllStringSubmatch(text, -1) {
		csns = append(csns, m[1])
	}
	for i, csn := range csns {
		part := w.run(0, "tail", "bank", "--follow=false", "--from-csn", csn).out
		if n := strings.Count(part, "csn "); n != len(csns)-i || !strings.HasPrefix(part, "csn "+csn) {
			t.Errorf("from csn %s: want the last %d in\n%s", csn, len(csns)-i, part)
		}
	}
	lines := strings.Split(strings.TrimSpace(w.run(0, "tail", "bank", "--from-csn", "0", "--count", "2", "--format", "json").out), "\n")
	var tx transaction
	if w.decode(lines[0], &tx); len(lines) != 2 || len(tx.Fragments) != 2 || len(tx.Changes) != 4 || tx.CSN.String() != csns[0] {
		t.Errorf("tail --format json: %q", lines)
	}
}

// A stream reads the same in every format and layout that says the same.
func TestFormatsReadTheSame(t *testing.T) {
	w := newWorld(t)
	w.startNode()
	w.create("raw", "--shard", "a="+w.a, "--shard", "b="+w.b)
	w.create("feed", "--shard", "a="+w.a, "--shard", "b="+w.b, "--format", "json")
	w.create("rows", "--shard", "a="+w.a, "--shard", "b="+w.b, "--format", "json", "--json-layout", "row")
	for _, name := range []string{"raw", "feed", "rows"} {
		w.run(0, "resume", name)
	}
	w.transfer("xfer-2")
	w.sql(w.a, "INSERT INTO accounts SELECT n, repeat('x', 2000), NULL FROM generate_series(10, 1500) n", "TRUNCATE accounts CASCADE",
		"SELECT pg_logical_emit_message(true, 'app', 'done')")
	w.wants(w.run(1, "wait", "feed", "--for", "applied").err, "has no target in the catalog")
	var texts [3]string
	for i, name := range []string{"raw", "feed", "rows"} {
		w.run(0, "wait", name, "--for", "published")
		texts[i] = positions.ReplaceAllString(w.run(0, "tail", name, "--follow=false").out, "")
		// What wait and probes write themselves is not the same.
		texts[i] = regexp.MustCompile(`(?m)^.*\n.*message "cdc\..*\n`).ReplaceAllString(texts[i], "")
	}
	if texts[0] != texts[1] || texts[0] != texts[2] {
		t.Errorf("internal:\n%.2000s\njson:\n%.2000s\nrow by row:\n%.2000s", texts[0], texts[1], texts[2])
	}
	w.wants(texts[0], "truncate public.accounts cascade", `message "app"  "done"`, "balance=null")
	for _, name := range []string{"raw", "feed", "rows"} {
		w.run(0, "drop-subscription", name)
	}
	w.nothingLeft()
}

// What a Create has made on shard a goes away when shard b cannot be provisioned, and when ctrl-C ends the command.
func TestCreateIsAllOrNothing(t *testing.T) {
	w := newWorld(t)
	w.sql(w.b, "BEGIN; INSERT INTO accounts VALUES (1, 'x', 1); PREPARE TRANSACTION 'blocks'")
	args := []string{"create-subscription", "half", "--shard", "a=" + w.a, "--shard", "b=" + w.b}
	r := w.run(1, append(args, "--slot-timeout", "1s")...)
	w.wants(r.err, "create subscription half: shard b:", "prepared transaction 'blocks'", "Everything that had been made was removed again")
	w.nothingLeft()

	cmd := w.command(append(args, "--slot-timeout", "1m")...)
	var text strings.Builder
	cmd.Stderr = &text
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.until("shard a has its slot, shard b waits", func() bool {
		return w.query(w.a, "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'cdc_half_a' AND confirmed_flush_lsn IS NOT NULL") == "1" &&
			w.query(w.b, "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'cdc_half_b'") == "1"
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("interrupted: exit %d\n%s", code, &text)
	}
	w.wants(text.String(), "interrupted", "Everything that had been made was removed again")
	w.nothingLeft()
	w.sql(w.b, "ROLLBACK PREPARED 'blocks'")
}
