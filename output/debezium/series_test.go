package debezium

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shardcdc/output"
	"shardcdc/pipeline"
)

// elsewhere is a body that is not in memory.
type elsewhere []byte

func (e elsewhere) Size() int64                  { return int64(len(e)) }
func (e elsewhere) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(e)), nil }
func (e elsewhere) Release()                     {}

// sample is a transaction of every kind of change, with n rows.
func sample(t *testing.T, name string, n string) *pipeline.Transaction {
	t.Helper()
	s := newSource(t, name)
	s.exec("CREATE TABLE t (id int PRIMARY KEY, name text); CREATE TABLE u (id int)")
	s.exec("BEGIN; INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, " + n + ") i; INSERT INTO u VALUES (1);" +
		"UPDATE t SET id = -id WHERE id % 3 = 0; UPDATE t SET name = '' WHERE id = 1; DELETE FROM t WHERE id % 5 = 0;" +
		"SELECT pg_logical_emit_message(true, 'foo', 'bar'); TRUNCATE u, t; COMMIT")
	return transactions(s.capture())[0]
}

// copied keeps what a payload points to.
func kept(p *output.Payload) output.Payload {
	k := *p
	k.Data = bytes.Clone(p.Data)
	if k.Data == nil {
		k.Data = []byte{}
	}
	return k
}

// A transaction that is not in memory has the same payloads, each time.
func TestSeries(t *testing.T) {
	tx := sample(t, "events_series", "100")
	opts := options(t, []string{"tombstones", "truncate", "schema"})
	var want []output.Payload
	for _, p := range encode(t, newEncoder(t, opts), tx) {
		want = append(want, kept(&p))
	}
	if len(want) > MessagesMax(tx, &opts) {
		t.Errorf("%d payloads, at most %d announced", len(want), MessagesMax(tx, &opts))
	}
	f := tx.Fragments[0]
	f.Content, f.Body = elsewhere(f.Body), nil
	list := encode(t, newEncoder(t, opts), tx)
	if len(list) != 1 || list[0].Series == nil {
		t.Fatalf("%d payloads, %+v", len(list), list[0])
	}
	for range 2 {
		var got []output.Payload
		if err := list[0].Series.Each(func(p *output.Payload) error {
			got = append(got, kept(p))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	}
	stop := errors.New("no more")
	if err := list[0].Series.Each(func(*output.Payload) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the reader: %v", err)
	}
	if got := encode(t, newEncoder(t, opts), tx); len(got) != 1 {
		t.Errorf("after an error %d payloads", len(got))
	}
}

// Payloads are good until the second Encode after theirs, and the same batch gives the same bytes.
func TestMemory(t *testing.T) {
	tx := sample(t, "events_memory", "50")
	e := newEncoder(t, options(t, []string{"tombstones"}))
	first := encode(t, e, tx)
	var want []output.Payload
	for _, p := range first {
		want = append(want, kept(&p))
	}
	later := *tx
	later.CSN += 1000
	encode(t, e, &later)
	if len(first) != len(want) {
		t.Fatalf("%d payloads, there were %d", len(first), len(want))
	}
	for i := range want {
		if !cmp.Equal(kept(&first[i]), want[i]) {
			t.Fatalf("payload %d changed:\n%s\nwas\n%s", i, first[i].Data, want[i].Data)
		}
	}
	for i, p := range encode(t, e, tx) {
		if !cmp.Equal(kept(&p), want[i]) {
			t.Fatalf("payload %d is another one:\n%s\nwas\n%s", i, p.Data, want[i].Data)
		}
	}
}

// The number of messages is announced before they are made, and there are never more.
func TestMessagesMax(t *testing.T) {
	s := newSource(t, "events_messages")
	s.exec("CREATE TABLE t (id int PRIMARY KEY, name text); CREATE TABLE u (id int); CREATE TABLE v (id int)")
	for _, c := range []struct {
		sql     string
		options []string
		max     int
	}{
		{"INSERT INTO t SELECT generate_series(1, 10)", nil, 12},
		{"UPDATE t SET id = -id", nil, 22},
		{"UPDATE t SET id = -id", []string{"tombstones"}, 32},
		{"DELETE FROM t WHERE id > 5", nil, 7},
		{"DELETE FROM t", []string{"tombstones"}, 12},
		{"TRUNCATE t, u, v", []string{"truncate"}, 5},
	} {
		s.exec(c.sql)
		tx, opts := transactions(s.capture())[0], options(t, c.options)
		n := len(encode(t, newEncoder(t, opts), tx))
		if announced := MessagesMax(tx, &opts); n != c.max || announced != c.max {
			t.Errorf("%s: %d messages, %d announced, want %d", c.sql, n, announced, c.max)
		}
	}
}

// What does not fit into headers is refused here, where there is a name for it.
func TestHeadersMax(t *testing.T) {
	s := newSource(t, "events_headers")
	s.exec("CREATE TABLE t (id text PRIMARY KEY); INSERT INTO t VALUES (repeat('ä', 20000))")
	_, err := newEncoder(t, options(t, nil)).Encode(batchOf(s.capture()))
	if err == nil || !strings.Contains(err.Error(), `shard "a": insert: public.t: the key and the names of its unchanged columns take 120`) {
		t.Error(err)
	}
}

// After an error nothing of the batch is left in the next one.
func TestErrors(t *testing.T) {
	good := sample(t, "events_errors", "3")
	e := newEncoder(t, options(t, nil))
	want := len(encode(t, e, good))
	for name, c := range map[string]struct {
		tx   *pipeline.Transaction
		want string
	}{
		"order": {&pipeline.Transaction{CSN: 1000, Fragments: good.Fragments}, "csn 1000 for debezium: it follows csn 1000: CSNs must rise"},
		"shard": {&pipeline.Transaction{CSN: 1002, Fragments: []*pipeline.Fragment{{Shard: 2}}}, "the subscription has 2 shards only"},
		"gid":   {&pipeline.Transaction{CSN: 1002, GID: "\xff", Fragments: good.Fragments}, "Try: cdcctl create-subscription … --format json --json-flavour native"},
	} {
		payloads, err := e.Encode(&pipeline.Batch{Previous: 1000, Transactions: []*pipeline.Transaction{c.tx}})
		if payloads != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %d payloads, %v", name, len(payloads), err)
		}
		if got := len(encode(t, e, good)); got != want {
			t.Errorf("%s: %d payloads afterwards, want %d", name, got, want)
		}
	}
}

// A table may have another subject; what is said of it stays.
func TestRoute(t *testing.T) {
	s := newSource(t, "events_route")
	s.exec("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); DELETE FROM t")
	e := newEncoder(t, options(t, []string{"tombstones"}))
	want := encode(t, e, transactions(s.capture())...)
	s.exec("INSERT INTO t VALUES (1); DELETE FROM t")
	routed := newEncoder(t, options(t, []string{"tombstones"}))
	routed.conf.Route = func(schema, table string) (string, bool) { return "elsewhere." + table, schema == "public" }
	for i, p := range encode(t, routed, transactions(s.capture())...) {
		subject := map[string]string{"public.t": "elsewhere.t", "": ""}[want[i].Subject]
		if p.Subject != subject || !bytes.Equal(p.Data, want[i].Data) {
			t.Errorf("%s: %s, want %s: %s", p.Subject, p.Data, subject, want[i].Data)
		}
	}
}
