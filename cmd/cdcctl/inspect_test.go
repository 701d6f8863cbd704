package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/node"
)

// csnsOf are the CSNs that a tail shows.
func csnsOf(text string) (csns []string) {
	for _, m := range regexp.MustCompile(`(?m)^csn (\d+)`).FindAllStringSubmatch(text, -1) {
		csns = append(csns, m[1])
	}
	return csns
}

// What one transaction was, how long transactions took, and the same of a file and of a store directory.
func TestInspect(t *testing.T) {
	w := newWorld(t)
	w.startNode()
	w.startWorker()
	w.create("bank", "--shard", "a="+w.a, "--shard", "b="+w.b, "--target", w.target)
	w.run(0, "resume", "bank")
	w.transfer("xfer-1")
	w.sql(w.a, "UPDATE accounts SET balance = 7 WHERE id = 1", "DELETE FROM accounts WHERE id = 1")
	w.run(0, "wait", "bank", "--for", "applied")

	all := w.run(0, "tail", "bank", "--follow=false").out
	csns := csnsOf(all)
	if len(csns) < 3 {
		t.Fatalf("tail:\n%s", all)
	}
	if got := csnsOf(w.run(0, "tail", "bank", "--to-csn", csns[1]).out); len(got) != 2 || got[1] != csns[1] {
		t.Errorf("up to csn %s: %v", csns[1], got)
	}
	if got := csnsOf(w.run(0, "tail", "bank", "--from-csn", csns[1], "--to-csn", csns[1]).out); len(got) != 1 || got[0] != csns[1] {
		t.Errorf("from and to csn %s: %v", csns[1], got)
	}
	if got := csnsOf(w.run(0, "tail", "bank", "--from-time", "1h", "--follow=false").out); len(got) != len(csns) {
		t.Errorf("the last hour: %v of %v", got, csns)
	}
	if got := csnsOf(w.run(0, "tail", "bank", "--from-time", time.Now().Add(time.Hour).Format(time.RFC3339), "--follow=false").out); len(got) != 0 {
		t.Errorf("from the future: %v", got)
	}

	text := w.run(0, "show", "bank", csns[0]).out
	w.wants(text, "csn "+csns[0]+", after csn 0, gid \"xfer-1\"", "SHARD", "a ", "b ", "public.accounts", "2 insert", "committed", "taken", "stored", "applied on target1", "its unit ends at")
	if strings.Contains(text, "not known") {
		t.Errorf("a stage is not known:\n%s", text)
	}
	var one oneTransaction
	w.decode(w.run(0, "show", "bank", csns[0], "-o", "json").out, &one)
	if len(one.Fragments) != 2 || len(one.Tables) != 1 || one.Tables[0].Changes["insert"] != 2 || len(one.Stages) != 4 || one.First == 0 || one.Messages != 1 || one.Total != 2 {
		t.Errorf("show -o json: %+v", one)
	}
	for i, s := range one.Stages {
		if s.At == nil || s.Seconds == nil || i > 0 && s.At.Before(*one.Stages[i-1].At) {
			t.Errorf("stage %+v", s)
		}
	}
	w.wants(w.run(1, "show", "bank", "7").err, "has no transaction of csn 7: the next one is csn "+csns[0]+". Try: cdcctl tail bank")
	w.wants(w.run(1, "show", "bank", "18446744073709551615").err, "or a higher one. Try: cdcctl status bank")

	var d delays
	w.decode(w.run(0, "durations", "bank", "--from-csn", csns[0], "--to-csn", csns[2], "-o", "json").out, &d)
	if d.Transactions != 3 || len(d.Steps) != 5 || len(d.Slowest) != 3 || d.FirstCSN.String() != csns[0] || d.LastCSN.String() != csns[2] {
		t.Errorf("durations: %+v", d)
	}
	for _, s := range d.Steps {
		if s.Transactions != 3 || s.Max <= 0 || s.P50 > s.P99 || s.P99 > s.Max || s.MaxCSN == 0 || s.Negative != 0 {
			t.Errorf("step %+v", s)
		}
	}
	w.wants(w.run(0, "durations", "bank").out, "FROM", "committed", "applied on target1", "SLOWEST")
	w.wants(w.run(0, "durations", "bank", "--from-csn", "18446744073709551615").out, "There is no transaction in this range")
	w.offline(t, all, csns)
	w.run(0, "drop-subscription", "bank")
}

// offline looks at the same in a file, and carries it to another NATS.
func (w *world) offline(t *testing.T, all string, csns []string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bank.cdc")
	w.wants(w.run(0, "export", "bank", "--to", file).out, file+": stream sequence 1 to", "The next file: cdcctl export bank --from-csn")
	w.wants(w.run(1, "export", "bank", "--to", file).err, "it exists already")
	read := w.run(0, "tail", "--file", file).out
	if !strings.HasPrefix(read, all) {
		t.Errorf("tail --file:\n%s\nwant\n%s", read, all)
	}
	var one oneTransaction
	w.decode(w.run(0, "show", "--file", file, csns[0], "-o", "json").out, &one)
	if len(one.Fragments) != 2 || len(one.Stages) != 3 {
		t.Errorf("show --file: %+v", one)
	}
	w.wants(w.run(0, "durations", "--file", file).out, "committed", "stored")
	w.wants(w.run(2, "tail", "other", "--file", file).err, "holds subscription bank, not other")

	dir := t.TempDir()
	there, err := embedded.Start(t.Context(), embedded.Options{StoreDir: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(there.Close)
	copied := servers.t.DSNFor(fmt.Sprintf("d%d_copy", servers.databaseSeq))
	w.sql(w.target, fmt.Sprintf("CREATE DATABASE d%d_copy", servers.databaseSeq))
	w.sql(copied, "CREATE TABLE accounts (id int PRIMARY KEY, owner text, balance numeric)")
	on := func(args ...string) []string { return append(args, "--nats", there.URL()) }
	var done struct{ Messages, Last_seq int } //nolint:revive // as in JSON
	w.decode(w.run(0, on("import", file, "--name", "copy", "--target", copied, "-o", "json")...).out, &done)
	if done.Messages == 0 || done.Messages != done.Last_seq {
		t.Errorf("import: %+v", done)
	}
	w.wants(w.run(0, on("import", file, "--name", "copy")...).out, "had all of it", "0 messages were new")
	w.wants(w.run(0, on("status", "copy")...).out, "copy: imported; nothing captures it here", "no worker")
	w.wants(w.run(0, on("list")...).out, "copy", "active, imported")
	for _, refused := range [][]string{{"check", "copy"}, {"add-table", "copy", "public.x"}, {"wait", "copy", "--for", "published"}, {"verify", "copy"}} {
		w.wants(w.run(1, on(refused...)...).err, "subscription copy was imported: its shards are elsewhere. Try: ")
	}
	w.wants(w.run(1, on("alter-subscription", "copy", "--ddl", "stop")...).err, "Try: cdcctl import FILE --ddl stop")
	w.run(0, on("import", file, "--name", "copy", "--ddl", "stop")...)
	w.replayed(t, there.URL(), copied)
	if got := w.run(0, on("tail", "copy", "--follow=false")...).out; !strings.HasPrefix(got, all) {
		t.Errorf("tail of what was imported:\n%s\nwant\n%s", got, all)
	}
	w.wants(w.run(1, "tail", "copy", "--store", dir).err, "in use by a running cdcd. Try: ")
	w.wants(w.run(0, on("history", "copy")...).out, "imported")
	w.run(0, on("import", file, "--name", "gone")...)
	w.wants(w.run(0, on("drop-subscription", "gone", "--dry-run")...).out, "stream CDC_gone", "catalog entry gone")
	w.wants(w.run(0, on("drop-subscription", "gone")...).out, "removed stream CDC_gone", "removed catalog entry gone")
	there.Close()
	if got := w.run(0, "tail", "copy", "--store", dir).out; !strings.HasPrefix(got, all) {
		t.Errorf("tail --store:\n%s\nwant\n%s", got, all)
	}
}

// replayed runs a worker beside the NATS server that a stream was imported into.
func (w *world) replayed(t *testing.T, url, copied string) {
	t.Helper()
	bus := natstest.Connect(t, control.Connection{URL: url, Name: "worker"})
	k, err := node.NewWorker(w.Context(), bus, node.WorkerConfig{Name: "n2", SpillDir: w.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	stop := w.start(k.Run)
	w.run(0, "wait", "copy", "--for", "applied", "--nats", url)
	const look = "SELECT coalesce(string_agg(accounts::text, ' ' ORDER BY id), '') FROM accounts"
	if got, want := w.query(copied, look), w.query(w.target, look); got != want || want == "" {
		t.Errorf("the target has %q, want %q", got, want)
	}
	w.run(0, "pause", "copy", "--nats", url)
	w.run(0, "resume", "copy", "--nats", url)
	stop()
}

// Streams in the flavour debezium, and of SQL, are shown as they are; show and durations know what they say of themselves.
func TestInspectOtherFormats(t *testing.T) {
	w := newWorld(t)
	w.startNode()
	w.create("dbz", "--shard", "a="+w.a, "--shard", "b="+w.b, "--format", "json", "--json-layout", "row", "--json-flavour", "debezium", "--debezium-tombstones")
	w.create("stmts", "--shard", "a="+w.a, "--shard", "b="+w.b, "--format", "sql")
	for _, name := range []string{"dbz", "stmts"} {
		w.run(0, "resume", name)
	}
	w.transfer("xfer-3")
	w.sql(w.b, "DELETE FROM accounts WHERE id = 2")
	for _, name := range []string{"dbz", "stmts"} {
		w.run(0, "wait", name, "--for", "published")
	}
	text := w.run(0, "tail", "dbz", "--follow=false").out
	w.wants(text, `  public.accounts  op c  id=1 owner="Alice"`, "  public.accounts  op d  [id=2", "  public.accounts  tombstone {\"id\":2}")
	csn := csnsOf(text)[0]
	line, _, _ := strings.Cut(w.run(0, "tail", "dbz", "--from-csn", csn, "--count", "1", "--format", "json").out, "\n")
	var tx struct {
		CSN      string
		Begin    struct{ Status string }
		End      struct{ Status string }
		Messages []struct {
			Subject string
			Key     map[string]int
			Value   struct{ Op string }
		}
	}
	w.decode(line, &tx)
	if tx.CSN != csn || tx.Begin.Status != "BEGIN" || tx.End.Status != "END" || len(tx.Messages) != 2 || tx.Messages[0].Value.Op != "c" || tx.Messages[1].Key["id"] != 2 || tx.Messages[0].Subject != "cdc.dbz.public.accounts" {
		t.Errorf("tail --format json: %s", line)
	}
	w.wants(w.run(0, "show", "dbz", csn).out, `gid "xfer-3"`, "public.accounts", "2 events", "4 messages", "committed", "stored")

	text = w.run(0, "tail", "stmts", "--follow=false").out
	w.wants(text, "-- csn ", `gid "xfer-3"`, `-- shard "b" xid `, "INSERT INTO", "COMMIT;")
	csn = regexp.MustCompile(`csn (\d+)`).FindStringSubmatch(text)[1]
	var one oneTransaction
	w.decode(w.run(0, "show", "stmts", csn, "-o", "json").out, &one)
	if len(one.Fragments) != 2 || one.Total != 2 || one.CommitTime == "" || string(one.GID) != `"xfer-3"` || one.Fragments[1].Shard != "b" {
		t.Errorf("show of statements: %+v", one)
	}
	for _, name := range []string{"dbz", "stmts"} {
		var d delays
		w.decode(w.run(0, "durations", name, "-o", "json").out, &d)
		if d.Transactions < 2 || d.Steps[0].Transactions != d.Transactions || d.Steps[2].Transactions != d.Transactions {
			t.Errorf("durations %s: %+v", name, d)
		}
	}
}
