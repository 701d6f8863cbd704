package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/output"
	outputjson "shardcdc/output/json"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// batchMessages is how many messages of one transaction go to a server at once that takes 1000.
const batchMessages = 800

func (b *bench) rowConfig(opts format.JSONOptions) Config {
	c := b.config()
	c.Format, c.Encoder = "json", outputjson.NewRows("bank", []string{"a"}, opts)
	c.Watermark = outputjson.Watermark
	return c
}

// transaction is what a reader of rows has when it may act.
type transaction struct {
	csn  string
	rows int
}

// readRows reads tables and ends, and nothing else, by the rule for readers: what belongs to a transaction has the CSN and the epoch
// of its end.
func (b *bench) readRows() (seen []transaction) {
	b.t.Helper()
	s, err := b.js.Stream(b.ctx, wire.StreamName("bank"))
	if err != nil {
		b.t.Fatal(err)
	}
	info, err := s.Info(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	tables := strings.TrimSuffix(wire.TableSubject("bank", "public", "x"), "x")
	collector := wire.NewCollector(1 << 30)
	pending := map[string]int{}
	for seq := max(info.State.FirstSeq, 1); seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(b.ctx, seq)
		if errors.Is(err, natsjs.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			b.t.Fatal(err)
		}
		if !strings.HasPrefix(m.Subject, tables) && m.Subject != wire.Subject("bank") {
			continue
		}
		data, whole, err := collector.Add(m.Header.Get(wire.HeaderPart), m.Data)
		if err != nil {
			b.t.Fatal(err)
		}
		if !whole {
			continue
		}
		of := m.Header.Get(wire.HeaderCSN) + " " + m.Header.Get(wire.HeaderEpoch)
		if m.Subject != wire.Subject("bank") {
			pending[of]++
			continue
		}
		seen = append(seen, b.ended(data, pending[of]))
		clear(pending)
	}
	return seen
}

// ended checks an end against the rows that came before it.
func (b *bench) ended(data []byte, rows int) transaction {
	b.t.Helper()
	var end struct {
		CSN    string
		Total  int
		Tables []struct{ Changes int }
	}
	if err := json.Unmarshal(data, &end); err != nil {
		b.t.Fatal(err)
	}
	said := 0
	for _, t := range end.Tables {
		said += t.Changes
	}
	if said != rows || end.Total != rows {
		b.t.Errorf("csn %s: %d rows, and its end tells of %d in %s", end.CSN, rows, said, data)
	}
	return transaction{end.CSN, rows}
}

func (b *bench) wantRows(want ...transaction) {
	b.t.Helper()
	if diff := cmp.Diff(want, b.readRows(), cmp.AllowUnexported(transaction{})); diff != "" {
		b.t.Fatalf("other transactions: %s", diff)
	}
}

// Rows stand on their subjects, with the headers of their own, and the end of the last transaction ends the unit.
func TestRows(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.rowConfig(format.JSONOptions{CloudEvents: true}))
	b.publish(p, batch(0, 10, 5, 6))
	b.publish(p, batch(6, 3<<20, 7)) // a row of several parts: its key is its only value
	idle := batch(7, 0)
	idle.Checkpoint.Watermark = 8 << 12
	b.publish(p, idle)
	var subjects []string
	ids := map[string]bool{}
	for seq := pipeline.Seq(2); seq <= p.last; seq++ {
		m, err := p.stream.GetMsg(b.ctx, uint64(seq))
		if err != nil {
			t.Fatal(err)
		}
		subjects = append(subjects, strings.TrimPrefix(m.Subject, "cdc.bank."))
		first := m.Header.Get(wire.HeaderPart) == "" || strings.HasPrefix(m.Header.Get(wire.HeaderPart), "1/")
		if id := m.Header.Get("ce-id"); m.Subject != wire.WatermarkSubject("bank") && (id == "") == first || id != "" && ids[id] {
			t.Errorf("message %d, part %q, has the id %q", seq, m.Header.Get(wire.HeaderPart), id)
		} else {
			ids[id] = true
		}
		if m.Header.Get(wire.HeaderCSN) == "" || m.Header.Get(wire.HeaderFormat) != "json" {
			t.Errorf("message %d: %v", seq, m.Header)
		}
	}
	table := "public." + wire.EncodeToken("t")
	want := []string{table, table, "_tx", table, "_tx", table, table, table, table, table, table, table, "_tx", "_ctl.watermark"}
	if diff := cmp.Diff(want, subjects); diff != "" {
		t.Error(diff)
	}
	last, err := p.stream.GetMsg(b.ctx, uint64(p.last))
	if err != nil || string(last.Data) != `{"watermark":"32768","time":"2000-01-01T00:00:00.000008Z"}` || last.Header.Get(wire.HeaderWatermark) != "32768" {
		t.Errorf("%s %v %v", last.Data, last.Header, err)
	}
	if _, at, ok := b.open(b.rowConfig(format.JSONOptions{})); !ok || at.Last != 7 {
		t.Fatalf("recovered %+v", at)
	}
	b.wantRows(transaction{"5", 2}, transaction{"6", 1}, transaction{"7", 1})
}

// What is stored of a transaction that is not in memory is what would be stored of it in memory, in batches that a server takes.
func TestSeries(t *testing.T) {
	for name, c := range map[string]struct{ rows, size int }{
		"one row":                {1, 100},
		"a batch":                {batchMessages - 2, 10},
		"an end more":            {batchMessages - 1, 10},
		"many rows":              {3000, 100},
		"rows of 1 MB":           {21, 1 << 20},
		"a row beyond a message": {2, 10 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, StreamConfig{})
			conf := b.rowConfig(format.JSONOptions{CloudEvents: true})
			p, _, _ := b.open(conf)
			b.publish(p, rows(0, 5, c.rows, c.size))
			middle := p.last
			p.conf.Encoder = outputjson.NewRows("bank", []string{"a"}, format.JSONOptions{CloudEvents: true}) // which tells everything again
			moved := large(rows(5, 5, c.rows, c.size))
			moved.Previous = 4 // the encoder's rule; the publisher has none
			b.publish(p, moved)
			if p.last-middle != middle-1 {
				t.Fatalf("%d messages, in memory %d", p.last-middle, middle-1)
			}
			in := map[string]int{}
			for seq := pipeline.Seq(2); seq <= middle; seq++ {
				one, err := p.stream.GetMsg(b.ctx, uint64(seq))
				if err != nil {
					t.Fatal(err)
				}
				other, err := p.stream.GetMsg(b.ctx, uint64(seq+middle-1))
				if err != nil {
					t.Fatal(err)
				}
				data := strings.Replace(string(other.Data), `"previous":"4"`, `"previous":"0"`, 1)
				if one.Subject != other.Subject || string(one.Data) != data || one.Header.Get("ce-id") != other.Header.Get("ce-id") || one.Header.Get(wire.HeaderPart) != other.Header.Get(wire.HeaderPart) {
					t.Fatalf("message %d: %.200s, from elsewhere %.200s", seq, one.Data, other.Data)
				}
				in[other.Header.Get(headerBatchID)]++
			}
			for id, n := range in {
				if id != "" && n > batchMessages {
					t.Errorf("%d messages in a batch", n)
				}
			}
			b.wantRows(transaction{"5", c.rows + 1}, transaction{"5", c.rows + 1})
		})
	}
}

// dying is an encoder whose writer dies when so many payloads of a transaction have been made; then is called before.
type dying struct {
	output.Encoder
	after int
	then  func()
}

var errDied = errors.New("died")

func (d dying) Encode(b *pipeline.Batch) ([]output.Payload, error) {
	payloads, err := d.Encoder.Encode(b)
	for i := range payloads {
		payloads[i].Series = dyingSeries{payloads[i].Series, d}
	}
	return payloads, err
}

type dyingSeries struct {
	output.Series
	d dying
}

func (s dyingSeries) Each(fn func(*output.Payload) error) error {
	n := 0
	return s.Series.Each(func(p *output.Payload) error {
		if n == s.d.after {
			if s.d.then == nil {
				return errDied
			}
			s.d.then()
		}
		n++
		return fn(p)
	})
}

// A writer that dies anywhere within a transaction leaves rows that no reader acts on; the next one publishes it anew, with the same
// CSN or another, and the transaction is there once.
func TestRowsTorn(t *testing.T) {
	const n = 2*batchMessages + 50
	for _, first := range []bool{false, true} {
		b := newBench(t, StreamConfig{})
		conf := b.rowConfig(format.JSONOptions{})
		var want []transaction
		csn := pipeline.CSN(0)
		if !first {
			p, _, _ := b.open(conf)
			b.publish(p, batch(0, 10, 1))
			want, csn = append(want, transaction{"1", 2}), 1
		}
		for _, after := range []int{0, 1, batchMessages, batchMessages + 1, 2*batchMessages + 1, n, n + 1} {
			broken := conf
			broken.Encoder = dying{outputjson.NewRows("bank", []string{"a"}, format.JSONOptions{}), after, nil}
			p, at, ok := b.open(broken)
			if ok != (csn > 0) || at.Last != csn {
				t.Fatalf("recovered %t %+v after csn %s", ok, at, csn)
			}
			before := p.last
			err := p.Publish(b.ctx, large(rows(csn, csn+1, n, 20)))
			if !errors.Is(err, errDied) || (p.last > before) != (after > batchMessages) {
				t.Fatalf("%v, %d messages stored", err, p.last-before)
			}
			if first { // its end must not be needed for going on
				continue
			}
			conf.Encoder = outputjson.NewRows("bank", []string{"a"}, format.JSONOptions{})
			p, at, ok = b.open(conf)
			if !ok || at.Last != csn {
				t.Fatalf("recovered %t %+v after csn %s", ok, at, csn)
			}
			next := csn + pipeline.CSN(1+after%2) // the same, or another
			b.publish(p, large(rows(csn, next, n, 20)))
			csn = next
			want = append(want, transaction{csn.String(), n + 1})
		}
		b.wantRows(want...)
	}
}

// The same writer may go on as well: an epoch stands between what it left and what it writes then.
func TestRowsTornAndOn(t *testing.T) {
	b := newBench(t, StreamConfig{})
	conf := b.rowConfig(format.JSONOptions{})
	p, _, _ := b.open(conf)
	whole := p.conf.Encoder
	p.conf.Encoder = dying{whole, batchMessages + 5, nil}
	epoch := p.epoch
	if err := p.Publish(b.ctx, large(rows(0, 7, 2000, 10))); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	p.conf.Encoder = whole
	b.publish(p, large(rows(0, 7, 2000, 10)))
	if p.epoch == epoch {
		t.Error("no epoch between")
	}
	b.wantRows(transaction{"7", 2000})
}

// A writer that is overtaken in the middle of a transaction cannot go on, and what it left does not count.
func TestRowsOvertaken(t *testing.T) {
	b := newBench(t, StreamConfig{})
	conf := b.rowConfig(format.JSONOptions{})
	var now *Publisher
	slow := conf
	slow.Encoder = dying{outputjson.NewRows("bank", []string{"a"}, format.JSONOptions{}), batchMessages + 1, func() {
		now, _, _ = b.open(conf)
		b.publish(now, large(rows(0, 7, 2000, 10)))
	}}
	old, _, _ := b.open(slow)
	if err := old.Publish(b.ctx, large(rows(0, 7, 2000, 10))); !errors.Is(err, ErrFenced) {
		t.Fatalf("the old writer got %v", err)
	}
	b.wantRows(transaction{"7", 2001})
}

// A publish that happened although its answer was lost is found by the last message of its batch, a row or an end.
func TestRowsAnswerLost(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.rowConfig(format.JSONOptions{}))
	b.publish(p, batch(0, 10, 5, 6))
	again := *p // does not know of what follows
	u, err := p.newUnit(batch(6, 10, 7))
	if err != nil {
		t.Fatal(err)
	}
	payloads, err := p.conf.Encoder.Encode(rows(6, 7, 40, 10))
	if err != nil {
		t.Fatal(err)
	}
	var msgs []message
	for i := range payloads {
		msgs = u.messages(msgs, &payloads[i])
	}
	half := len(msgs) / 2
	for _, w := range []*Publisher{p, &again} {
		u.p = w
		if err := u.store(b.ctx, msgs[:half]); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range []*Publisher{p, &again} {
		u.p = w
		if err := u.end(b.ctx, msgs[half:]); err != nil {
			t.Fatal(err)
		}
	}
	b.publish(&again, batch(7, 10, 8))
	b.wantRows(transaction{"5", 2}, transaction{"6", 1}, transaction{"7", 41 - 1}, transaction{"8", 1})
}

// A large checkpoint beside as many rows as fit into a batch, where messages are small.
func TestRowsLargeCheckpoint(t *testing.T) {
	for name, move := range map[string]func(*pipeline.Batch) *pipeline.Batch{
		"in memory": func(b *pipeline.Batch) *pipeline.Batch { return b }, "elsewhere": large,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, StreamConfig{})
			b.limit = 1000
			p, _, _ := b.open(b.rowConfig(format.JSONOptions{}))
			b.publish(p, with(move(rows(0, 5, batchMessages-2, 10)), 10_000)) // with a description, and the end
			b.publish(p, with(move(rows(5, 6, 2*batchMessages-1, 10)), 10_000))
			if _, at, ok := b.open(b.rowConfig(format.JSONOptions{})); !ok || at.Last != 6 || len(at.Shards[0].Open) != 10_000 {
				t.Fatalf("recovered csn %s, %d open", at.Last, len(at.Shards[0].Open))
			}
			b.wantRows(transaction{"5", batchMessages - 1}, transaction{"6", 2*batchMessages - 1})
		})
	}
}

// A full stream is relieved of rows, whatever their subjects, but not of the last unit's end, nor of the epoch.
func TestRowsFull(t *testing.T) {
	b := newBench(t, StreamConfig{BytesMax: 200 << 10})
	conf := b.rowConfig(format.JSONOptions{})
	var p *Publisher
	conf.Keep = func(context.Context) (pipeline.Seq, error) { return p.lastUnit - 1, nil } // its only row
	p, _, _ = b.open(conf)
	for csn := pipeline.CSN(1); csn <= 10; csn++ {
		b.publish(p, batch(csn-1, 40<<10, csn))
	}
	seen := b.readRows()
	if len(seen) == 0 || seen[len(seen)-1].csn != "10" || len(seen) > 5 {
		t.Errorf("left: %v", seen)
	}
	if epoch, err := lastOn(b.ctx, p.stream, p.subjects.epoch); err != nil || epoch != p.epoch {
		t.Errorf("the epoch is at %d, %v", epoch, err)
	}
	if _, at, ok := b.open(b.rowConfig(format.JSONOptions{})); !ok || at.Last != 10 {
		t.Fatalf("recovered %+v, %t", at, ok)
	}
}

// Payloads that lie about their end are refused.
func TestSeriesLies(t *testing.T) {
	b := newBench(t, StreamConfig{})
	for want, ends := range map[string][]int{"its payloads have no end": {0, 0}, "a payload follows its last one": {1, 0}} {
		conf := b.config()
		conf.Encoder = lyingSeries(ends)
		p, _, _ := b.open(conf)
		if err := p.Publish(b.ctx, batch(0, 1, 7)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if _, at, ok := b.open(conf); ok {
			t.Fatalf("recovered %+v", at)
		}
	}
}

type lyingSeries []int

func (l lyingSeries) Encode(b *pipeline.Batch) ([]output.Payload, error) {
	return []output.Payload{{Series: l, CSN: b.Last()}}, nil
}

func (l lyingSeries) Each(fn func(*output.Payload) error) error {
	for _, n := range l {
		if err := fn(&output.Payload{Data: []byte("x"), CSN: 7, Transactions: n, Subject: "a.b"}); err != nil {
			return fmt.Errorf("wrapped: %w", err)
		}
	}
	return nil
}
