package json

import (
	"bytes"
	"encoding/binary"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

func object(t *testing.T, data []byte) (m map[string]any) {
	t.Helper()
	d := stdjson.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return m
}

// checkRows: a reader that collects what is published row by row has what is published by transaction.
func checkRows(t *testing.T, payloads, rows []output.Payload) {
	t.Helper()
	for _, p := range payloads {
		want := object(t, p.Data)
		var changes []any
		counts := map[string]int{}
		for len(rows) > 0 {
			r := rows[0]
			rows = rows[1:]
			m := object(t, r.Data)
			if r.CSN != p.CSN || m["csn"] != want["csn"] {
				t.Fatalf("%s is not of csn %s", r.Data, p.CSN)
			}
			if r.Transactions == 1 {
				checkEnd(t, r, m, want, counts)
				break
			}
			if schema, ok := m["schema"].(string); ok {
				table := m["table"].(string)
				counts[schema+"\x00"+table]++
				if r.Subject != wire.TableTokens(schema, table) {
					t.Errorf("%s is on %s", r.Data, r.Subject)
				}
			}
			changes = add(t, changes, m, want)
		}
		if diff := cmp.Diff(want["changes"], append([]any{}, changes...)); diff != "" {
			t.Errorf("csn %s: other changes in rows: %s", p.CSN, diff)
		}
	}
	if len(rows) > 0 {
		t.Errorf("%d payloads more", len(rows))
	}
}

// add strips a row of what it says of its transaction, once it is found right. A truncation is there once per table, and becomes the
// one of all of them.
func add(t *testing.T, changes []any, m, tx map[string]any) []any {
	t.Helper()
	shard, found := m["shard"], false
	for _, f := range tx["fragments"].([]any) {
		f := f.(map[string]any)
		found = found || f["shard"] == shard && f["xid"] == m["xid"] && f["lsn"] == m["lsn"]
	}
	if !found || !cmp.Equal(m["gid"], tx["gid"]) || m["commit_time"] != tx["commit_time"] || m["total"] != tx["total"] {
		t.Errorf("%v does not belong to %v", m, tx)
	}
	for _, name := range []string{"csn", "gid", "commit_time", "xid", "lsn", "total"} {
		delete(m, name)
	}
	if m["op"] == "truncate" {
		table := map[string]any{"schema": m["schema"], "table": m["table"]}
		delete(m, "schema")
		delete(m, "table")
		if n := len(changes); n > 0 {
			if before := changes[n-1].(map[string]any); before["index"] == m["index"] {
				before["tables"] = append(before["tables"].([]any), table)
				return changes
			}
		}
		m["tables"] = []any{table}
	}
	return append(changes, m)
}

// checkEnd: the last payload is the transaction, with tables instead of changes.
func checkEnd(t *testing.T, p output.Payload, end, tx map[string]any, counts map[string]int) {
	t.Helper()
	if p.Subject != "" {
		t.Errorf("an end on %q", p.Subject)
	}
	for _, e := range end["tables"].([]any) {
		e := e.(map[string]any)
		name := e["schema"].(string) + "\x00" + e["table"].(string)
		if n, _ := e["changes"].(stdjson.Number).Int64(); int(n) != counts[name] || n == 0 {
			t.Errorf("%s says that %q has %d messages, there are %d", p.Data, name, n, counts[name])
		}
		delete(counts, name)
	}
	if len(counts) > 0 {
		t.Errorf("%s does not tell of %v", p.Data, counts)
	}
	want := map[string]any{}
	for name, v := range tx {
		want[name] = v
	}
	delete(want, "changes")
	delete(end, "tables")
	if diff := cmp.Diff(want, end); diff != "" {
		t.Errorf("another end: %s", diff)
	}
}

func TestNothingIsAllocatedPerRowInRows(t *testing.T) {
	for _, opts := range []format.JSONOptions{{}, {Types: true, FillUnchanged: true, CloudEvents: true}} {
		e := NewRows("s", []string{"a"}, opts)
		allocs := func(b *pipeline.Batch) float64 {
			for range 2 { // both buffers grow
				if _, err := e.Encode(b); err != nil {
					t.Fatal(err)
				}
			}
			return testing.AllocsPerRun(10, func() {
				if _, err := e.Encode(b); err != nil {
					t.Fatal(err)
				}
			})
		}
		if many, few := allocs(bulk(1, 1000)), allocs(bulk(1, 10)); many > few {
			t.Errorf("%v allocations for 10 rows, %v for 1000", few, many)
		}
	}
}

// Payloads, and their headers, belong to the caller until the second Encode after theirs.
func TestRowsAreTheCallers(t *testing.T) {
	e := NewRows("s", []string{"a"}, format.JSONOptions{CloudEvents: true})
	first, err := e.Encode(bulk(3, 2))
	if err != nil {
		t.Fatal(err)
	}
	before := keep(first)
	if _, err := e.Encode(bulk(5, 5)); err != nil {
		t.Fatal(err)
	}
	_ = append(first[0].Data, "overwritten"...)
	_ = append(first[0].Headers, output.Header{Name: "overwritten"})
	if diff := cmp.Diff(before, keep(first)); diff != "" {
		t.Error(diff)
	}
}

// keep copies payloads.
func keep(payloads []output.Payload) (kept []output.Payload) {
	for _, p := range payloads {
		p.Data = bytes.Clone(p.Data)
		p.Headers = append([]output.Header(nil), p.Headers...)
		kept = append(kept, p)
	}
	return kept
}

func TestSeriesAreTheRows(t *testing.T) {
	for _, opts := range []format.JSONOptions{{}, {Types: true, CloudEvents: true}} {
		e := NewRows("s", []string{"a"}, opts)
		payloads, err := e.Encode(several())
		if err != nil {
			t.Fatal(err)
		}
		want := keep(payloads)
		got, err := NewRows("s", []string{"a"}, opts).Encode(elsewhere(several()))
		if err != nil || len(got) != 1 || got[0].Series == nil || got[0].CSN != want[0].CSN {
			t.Fatalf("%+v, %v", got, err)
		}
		for range 2 { // a retry makes the same
			var made []output.Payload
			err := got[0].Series.Each(func(p *output.Payload) error {
				made = append(made, keep([]output.Payload{*p})...)
				return nil
			})
			if diff := cmp.Diff(want, made); err != nil || diff != "" {
				t.Fatal(err, diff)
			}
		}
	}
}

func TestSeriesRefuses(t *testing.T) {
	e := NewRows("s", []string{"a"}, format.JSONOptions{})
	if p, err := e.Encode(elsewhere(bulk(2, 1))); p != nil || err == nil || !strings.Contains(err.Error(), "2 transactions in a batch") {
		t.Error(p, err)
	}
	b := elsewhere(several())
	b.Transactions[0].Fragments[0].Changes++
	p, err := e.Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	err = p[0].Series.Each(func(p *output.Payload) error { ended = ended || p.Transactions > 0; return nil })
	if ended || err == nil || err.Error() != "encode csn 1 as json: 3004 changes in the bodies, 3005 announced" {
		t.Error(ended, err)
	}
	if p, err = e.Encode(elsewhere(several())); err != nil {
		t.Fatal(err)
	}
	if err := p[0].Series.Each(func(*output.Payload) error { return io.ErrClosedPipe }); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	if p, err := e.Encode(bulk(1, 1)); err != nil || len(p) != 3 { // the encoder is not spoiled
		t.Error(len(p), err)
	}
}

func TestSeriesKeepsNothing(t *testing.T) {
	b := elsewhere(bulk(1, 100_000))
	p, err := NewRows("s", []string{"a"}, format.JSONOptions{}).Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	size := 0
	runtime.ReadMemStats(&before)
	err = p[0].Series.Each(func(p *output.Payload) error { size += len(p.Data); return nil })
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 2<<20 {
		t.Errorf("%d bytes allocated for payloads of %d", taken, size)
	}
}

// RowMessages is never too few: a batch that has more messages than the server takes at once stops the subscription.
func TestRowMessages(t *testing.T) {
	e := NewRows("s", []string{"a"}, format.JSONOptions{})
	b := several()
	f := b.Transactions[0].Fragments[1]
	f.Relations = append(f.Relations, pipeline.RelationUse{Offset: f.Size(), Relation: &pipeline.Relation{ID: 77, Name: "x"}})
	f.Append([]byte{'T', 0, 0, 0, 2, 0, 0, 0, 0, 77, 0, 0, 0, byte(f.Relations[0].Relation.ID)})
	p, err := e.Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	if most := RowMessages(b.Transactions[0]); len(p) > most || most > len(p)+10 {
		t.Errorf("%d payloads, said at most %d", len(p), most)
	}
}

// A statement about many tables takes as many messages, not as many times as many names.
func TestRowsTruncateMany(t *testing.T) {
	const tables = 2000
	e := NewRows("s", []string{"a"}, format.JSONOptions{})
	b := bulk(1, 0)
	f := b.Transactions[0].Fragments[0]
	f.Relations = nil
	msg := binary.BigEndian.AppendUint32([]byte{'T'}, tables)
	msg = append(msg, 0)
	for i := range uint32(tables) {
		f.Relations = append(f.Relations, pipeline.RelationUse{Relation: &pipeline.Relation{ID: i + 1, Namespace: "public", Name: fmt.Sprint("table", i)}})
		msg = binary.BigEndian.AppendUint32(msg, i+1)
	}
	f.Append(msg)
	p, err := e.Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for i := range p {
		size += len(p[i].Data)
	}
	if len(p) != 2*tables+1 || size > 1<<20 {
		t.Errorf("%d messages, %d bytes", len(p), size)
	}
}

func BenchmarkRows(b *testing.B) {
	for name, opts := range map[string]format.JSONOptions{"plain": {}, "cloudevents": {CloudEvents: true}} {
		b.Run(name, func(b *testing.B) {
			e, batch := NewRows("s", []string{"a"}, opts), bulk(10, 100)
			payloads, err := e.Encode(batch)
			if err != nil {
				b.Fatal(err)
			}
			size := 0
			for _, p := range payloads {
				size += len(p.Data)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Encode(batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/row")
		})
	}
}
