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
	second := encode(t, e, tx)
	for i := range want {
		if !bytes.Equal(first[i].Data, want[i].Data) || !bytes.Equal(second[i].Data, want[i].Data) || !cmp.Equal(first[i].Headers, second[i].Headers) {
			t.Fatalf("payload %d changed:\n%s\n%s\nwas\n%s", i, first[i].Data, second[i].Data, want[i].Data)
		}
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
