package main

import (
	"context"
	"maps"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/verify"
)

func TestVerify(t *testing.T) {
	w := newWorld(t)
	for _, dsn := range []string{w.a, w.b, w.target} {
		w.sql(dsn, "CREATE TABLE notes (id int PRIMARY KEY, body text)")
	}
	w.create("bank", "--shard", "a="+w.a, "--shard", "b="+w.b, "--target", w.target)
	w.sql(w.a, "INSERT INTO notes VALUES (2, 'two')")
	w.wants(w.run(1, "verify", "bank").err, "target target1 was never fed from subscription bank", "Try: cdcd apply")
	w.startNode()
	w.startWorker()
	w.transfer("xfer-1")
	w.sql(w.a, "INSERT INTO notes VALUES (1, 'one')")
	w.run(0, "wait", "bank", "--for", "applied")
	r := w.run(0, "verify", "bank")
	w.wants(r.out, "public.accounts", "public.notes", "bank and target target1: equal. 4 rows in 2 tables")
	w.wants(r.err, "public.accounts: 2 rows;", "2 of 2 tables")
	w.wants(w.run(1, "verify", "bank", "--table", "public.nothing").err, "no table is chosen")
	w.wants(w.run(2, "verify", "bank", "--target", "other").err, "has no target other. Try: --target target1")
	w.wants(w.run(1, "verify", "other").err, "no such subscription")

	w.sql(w.target, "UPDATE accounts SET balance = 6 WHERE id = 2", "INSERT INTO notes VALUES (5, 'invented')", "DELETE FROM notes WHERE id = 1")
	r = w.run(1, "verify", "bank")
	w.wants(r.out, "public.accounts (id)=(2): differs in balance, shard b\n", "public.notes (id)=(1): missing, shard a\n", "public.notes (id)=(5): extra\n", "target1: differs.")
	var report verify.Report
	w.decode(w.run(1, "verify", "bank", "-o", "json", "--table", "public.notes").out, &report)
	if report.Verdict != verify.Differs || len(report.Tables) != 1 || report.Tables[0].Missing != 1 || report.Tables[0].Extra != 1 ||
		report.Tables[0].Rows[0].Key[0] != (verify.KeyValue{Column: "id", Value: "1"}) || report.Tables[0].Rows[0].Shards[0] != "a" {
		t.Errorf("%+v", report)
	}
	w.wants(w.run(1, "verify", "bank", "--repair", "--dry-run").out, "differs in balance, shard b; repair: update", "repair: insert", "repair: delete")
	w.wants(w.run(0, "verify", "bank", "--repair").out, "differs in balance, shard b; repair: update", "repair: insert", "repair: delete", "target1: equal.")
	w.run(0, "verify", "bank")
	events := w.events("bank")
	repaired := events[len(events)-1]
	if repaired.Kind != control.Repaired || repaired.Target != "target1" || !strings.Contains(repaired.By, "@") ||
		!maps.Equal(repaired.Repaired, map[string]int64{"public.accounts": 1, "public.notes": 2}) {
		t.Errorf("the last event is %+v", repaired)
	}
	w.wants(w.run(0, "history", "bank").out, "target target1, public.accounts: 1 row, public.notes: 2 rows")
	w.watchesEquality()
}

// watchesEquality: --watch compares again and again, and ends well.
func (w *world) watchesEquality() {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	plain := w.command("verify", "bank", "--watch", "--interval", "10ms")
	cmd := exec.CommandContext(ctx, plain.Path, plain.Args[1:]...)
	var out strings.Builder
	cmd.Env, cmd.Stdout = w.env, &signalOn{to: &out, text: "equal.", times: 3, do: func() { _ = cmd.Process.Signal(syscall.SIGINT) }}
	if err := cmd.Run(); err != nil {
		w.Errorf("verify --watch: %v\n%s", err, out.String())
	}
}

// signalOn does something when a text was written a number of times.
type signalOn struct {
	to    *strings.Builder
	text  string
	times int
	do    func()
}

func (s *signalOn) Write(b []byte) (int, error) {
	s.to.Write(b)
	if s.do != nil && strings.Count(s.to.String(), s.text) >= s.times {
		s.do()
		s.do = nil
	}
	return len(b), nil
}
