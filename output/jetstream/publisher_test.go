package jetstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"shardcdc/output"
	outputjson "shardcdc/output/json"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a real server with one subscription's stream.
type bench struct {
	t   testing.TB
	nc  *nats.Conn
	js  natsjs.JetStream
	ctx context.Context

	limit int // of a message; at first what a server takes that was not told otherwise
}

func newBench(t testing.TB, c StreamConfig) *bench {
	t.Helper()
	b, _ := newServer(t, c, "")
	return b
}

// newServer starts a server that also listens, and makes the stream.
func newServer(t testing.TB, c StreamConfig, listen string) (*bench, *embedded.Server) {
	t.Helper()
	b, srv := startServer(t, t.TempDir(), listen)
	c.Subscription, c.Incarnation = "bank", "inc"
	if err := CreateStream(b.ctx, b.js, c); err != nil {
		t.Fatal(err)
	}
	return b, srv
}

// startServer starts a server on what dir holds.
func startServer(t testing.TB, dir, listen string) (*bench, *embedded.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	srv, err := embedded.Start(ctx, embedded.Options{StoreDir: dir, Listen: listen, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect("", srv.InProcess(), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); srv.Close(); cancel() })
	return &bench{t: t, nc: nc, js: js, ctx: ctx, limit: server.MAX_PAYLOAD_SIZE - headersMax}, srv
}

func (b *bench) config() Config {
	return Config{Subscription: "bank", Incarnation: "inc", Node: "n", Format: "internal", Encoder: output.NewInternal(), BatchMax: 1000}
}

func (b *bench) open(c Config) (*Publisher, pipeline.Checkpoint, bool) {
	b.t.Helper()
	p, at, ok, err := Open(b.ctx, b.nc, b.js, c)
	if err != nil {
		b.t.Fatal(err)
	}
	p.limit = min(p.limit, b.limit)
	return p, at, ok
}

// read returns the CSNs of the stream as a reader sees them.
func (b *bench) read() []pipeline.CSN {
	b.t.Helper()
	s, err := b.js.Stream(b.ctx, wire.StreamName("bank"))
	if err != nil {
		b.t.Fatal(err)
	}
	info, err := s.Info(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	collector := wire.NewCollector(1 << 30)
	var seen []pipeline.CSN
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(b.ctx, seq)
		if err != nil {
			b.t.Fatal(err)
		}
		if m.Subject != wire.Subject("bank") {
			continue
		}
		payload, whole, err := collector.Add(m.Header.Get(wire.HeaderPart), m.Data)
		if err != nil {
			b.t.Fatal(err)
		}
		if !whole {
			continue
		}
		if m.Header.Get(wire.HeaderFormat) == "json" {
			csn, err := pipeline.ParseCSN(m.Header.Get(wire.HeaderCSN))
			if err != nil {
				b.t.Fatal(err)
			}
			seen = append(seen, csn)
			continue
		}
		u, err := wire.DecodeUnit(payload)
		if err != nil {
			b.t.Fatal(err)
		}
		if m.Header.Get(wire.HeaderCheckpoint) == "" {
			b.t.Fatalf("message %d ends a payload and not its unit", seq)
		}
		for _, tx := range u.Transactions {
			seen = append(seen, tx.CSN)
		}
	}
	return seen
}

// relation describes t(v text).
func relation() *pipeline.Relation {
	msg := []byte{'R', 0, 0, 0x40, 1}
	msg = append(msg, "public\x00t\x00d\x00\x01\x01v\x00\x00\x00\x00\x19\xff\xff\xff\xff"...)
	r, err := pipeline.ParseRelation(msg, nil)
	if err != nil {
		panic(err)
	}
	return r
}

// batch makes transactions with these CSNs of one inserted row with size bytes each.
func batch(previous pipeline.CSN, size int, csns ...pipeline.CSN) *pipeline.Batch {
	rel := relation()
	b := &pipeline.Batch{Previous: previous}
	for _, csn := range csns {
		f := &pipeline.Fragment{XID: 7, Start: pipeline.LSN(csn), End: pipeline.LSN(csn) + 1, Relations: []pipeline.RelationUse{{Relation: rel}}}
		msg := []byte{'I', 0, 0, 0x40, 1, 'N', 0, 1, 't'}
		msg = binary.BigEndian.AppendUint32(msg, uint32(size))
		msg = append(msg, strings.Repeat("x", size)...)
		f.Append(msg)
		b.Transactions = append(b.Transactions, &pipeline.Transaction{CSN: csn, Fragments: []*pipeline.Fragment{f}})
	}
	b.Checkpoint = pipeline.Checkpoint{Last: b.Last(), Watermark: b.Last(), Shards: []pipeline.ShardCheckpoint{{Through: pipeline.LSN(b.Last()) + 1}}}
	return b
}

func (b *bench) publish(p *Publisher, batch *pipeline.Batch) {
	b.t.Helper()
	if err := p.Publish(b.ctx, batch); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) want(csns ...pipeline.CSN) {
	b.t.Helper()
	if got := b.read(); fmt.Sprint(got) != fmt.Sprint(csns) {
		b.t.Fatalf("the stream holds %v, want %v", got, csns)
	}
}

func TestRecoverLastUnit(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, ok := b.open(b.config())
	if ok {
		t.Fatal("a new stream has a checkpoint")
	}
	b.publish(p, batch(0, 10, 5, 6))
	b.publish(p, batch(6, 10, 7))
	p, at, ok := b.open(b.config())
	if !ok || at.Last != 7 || at.Shards[0].Through != 8 {
		t.Fatalf("recovered %+v, %t", at, ok)
	}
	// A checkpoint without transactions counts as well.
	idle := batch(7, 0)
	idle.Checkpoint.Shards[0].Through = 99
	b.publish(p, idle)
	if _, at, _ = b.open(b.config()); at.Shards[0].Through != 99 || at.Last != 7 {
		t.Fatalf("recovered %+v", at)
	}
	b.want(5, 6, 7)
}

func TestFenced(t *testing.T) {
	b := newBench(t, StreamConfig{})
	old, _, _ := b.open(b.config())
	b.publish(old, batch(0, 10, 5))
	now, _, _ := b.open(b.config())
	if err := old.Publish(b.ctx, batch(5, 10, 6)); !errors.Is(err, ErrFenced) {
		t.Fatalf("the old writer got %v", err)
	}
	b.publish(now, batch(5, 10, 8))
	if err := old.Publish(b.ctx, batch(5, 2<<20, 6)); !errors.Is(err, ErrFenced) {
		t.Fatalf("the old writer got %v for an atomic batch", err)
	}
	b.want(5, 8)
}

// A publish that happened although its answer was lost is found at the stream's end and not repeated.
func TestAnswerLost(t *testing.T) {
	for name, size := range map[string]int{"one message": 10, "batch": 3 << 20} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, StreamConfig{})
			p, _, _ := b.open(b.config())
			b.publish(p, batch(0, 10, 5))
			again := *p // does not know of the next publish
			b.publish(p, batch(5, size, 6))
			b.publish(&again, batch(5, size, 6))
			b.publish(&again, batch(6, 10, 7))
			b.want(5, 6, 7)
		})
	}
}

// A stream that somebody else wrote to, or that lost its end, stops the writer.
func TestForeignWriter(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	b.publish(p, batch(0, 10, 5))
	if _, err := b.js.Publish(b.ctx, wire.Subject("bank"), []byte("intruder")); err != nil {
		t.Fatal(err)
	}
	var fatal *FatalError
	if err := p.Publish(b.ctx, batch(5, 10, 6)); !errors.As(err, &fatal) {
		t.Fatalf("got %v", err)
	}
}

// A large transaction whose writer died between its batches is not in the stream; the next writer repeats it.
func TestTornTransaction(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	b.publish(p, batch(0, 10, 5))
	b.tear(p, 5, 6)
	next, at, ok := b.open(b.config())
	if !ok || at.Last != 5 {
		t.Fatalf("recovered %+v, %t", at, ok)
	}
	b.publish(next, batch(5, 20<<20, 6))
	b.publish(next, batch(6, 10, 7))
	b.want(5, 6, 7)
}

// The same writer may go on as well, after an error that ended an attempt.
func TestTornAndOn(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	b.tear(p, 0, 6)
	b.publish(p, large(batch(0, 20<<20, 6)))
	b.tear(p, 6, 7)
	b.publish(p, batch(6, 10, 7))
	b.want(6, 7)
}

// tear leaves the beginning of a large transaction in the stream.
func (b *bench) tear(p *Publisher, previous, csn pipeline.CSN) {
	b.t.Helper()
	before := p.last
	torn := large(batch(previous, 20<<20, csn))
	torn.Transactions[0].Fragments[0].Content.(*content).broken = true
	if err := p.Publish(b.ctx, torn); !errors.Is(err, errDisk) {
		b.t.Fatalf("published a transaction that cannot be read: %v", err)
	}
	if p.last == before {
		b.t.Fatal("nothing of it was stored: the test proves nothing")
	}
}

func TestTornFirstTransaction(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	b.tear(p, 0, 6)
	if _, at, ok := b.open(b.config()); ok {
		t.Fatalf("recovered %+v from a stream without a complete unit", at)
	}
}

func TestJSONUnit(t *testing.T) {
	b := newBench(t, StreamConfig{})
	c := b.config()
	c.Format, c.Encoder = "json", outputjson.New([]string{"a"}, format.JSONOptions{})
	p, _, _ := b.open(c)
	b.publish(p, batch(0, 10, 5, 6, 7))
	b.publish(p, batch(7, 2<<20, 8))
	if _, at, ok := b.open(c); !ok || at.Last != 8 {
		t.Fatalf("recovered %+v", at)
	}
	b.want(5, 6, 7, 8)
}

// A stream may be purged up to its last unit. Purged up to its end it is not taken for a new one.
func TestPurged(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	b.publish(p, batch(0, 10, 1, 2))
	b.publish(p, batch(2, 10, 3))
	s, err := b.js.Stream(b.ctx, wire.StreamName("bank"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(b.ctx, natsjs.WithPurgeSequence(uint64(p.LastSeq()))); err != nil {
		t.Fatal(err)
	}
	p, at, ok := b.open(b.config())
	if !ok || at.Last != 3 {
		t.Fatalf("recovered %v, csn %s", ok, at.Last)
	}
	b.publish(p, batch(3, 10, 4))
	if err := s.Purge(b.ctx); err != nil {
		t.Fatal(err)
	}
	var fatal *FatalError
	if _, _, _, err := Open(b.ctx, b.nc, b.js, b.config()); !errors.As(err, &fatal) || !strings.Contains(err.Error(), "was purged up to its end") {
		t.Fatalf("opened a stream without a position: %v", err)
	}
}

// A full stream is back-pressure, not an error, and nothing is lost or doubled when there is room again.
func TestFull(t *testing.T) {
	b := newBench(t, StreamConfig{BytesMax: 64 << 10})
	c := b.config()
	stalled := make(chan error, 100)
	c.Stalled = func(err error) {
		if err != nil {
			stalled <- err
		}
	}
	p, _, _ := b.open(c)
	b.publish(p, batch(0, 40<<10, 5))
	done := make(chan error, 1)
	go func() { done <- p.Publish(b.ctx, batch(5, 40<<10, 6)) }()
	if err := <-stalled; !strings.Contains(err.Error(), "maximum bytes exceeded. Try: cdcctl alter-subscription bank --stream-bytes-max BYTES, with room for the transaction if it alone is too large; or nats stream purge CDC_bank --seq N") {
		t.Fatalf("stalled by %v", err)
	}
	select {
	case err := <-done:
		t.Fatalf("published into a full stream: %v", err)
	default:
	}
	limit := func(n int64) error { return SetBytesMax(b.ctx, b.js, "bank", c.Incarnation, n) }
	if err := limit(1 << 60); err == nil || !strings.Contains(err.Error(), "change the limit of stream CDC_bank: ") || !strings.Contains(err.Error(), "Try: less") {
		t.Errorf("more than the server has: %v", err)
	}
	if err := limit(1 << 20); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := limit(1 << 10); err != nil { // removes nothing
		t.Fatal(err)
	}
	b.want(5, 6)
	if err := limit(0); err != nil {
		t.Fatal(err)
	}
	b.publish(p, batch(6, 40<<10, 7))
	b.want(5, 6, 7)
}

// What nobody needs any more leaves a full stream, also while a publish waits for room: by itself it goes on. The last unit
// and the epoch stay.
func TestFullOfObsolete(t *testing.T) {
	b := newBench(t, StreamConfig{BytesMax: 100 << 10})
	c := b.config()
	stalled := make(chan error, 100)
	c.Stalled = func(err error) {
		if err != nil {
			stalled <- err
		}
	}
	var keep atomic.Uint64
	c.Keep = func(context.Context) (pipeline.Seq, error) { return pipeline.Seq(keep.Load()), nil }
	p, _, _ := b.open(c)
	b.publish(p, batch(0, 40<<10, 5))
	b.publish(p, batch(5, 40<<10, 6))
	done := make(chan error, 1)
	go func() { done <- p.Publish(b.ctx, batch(6, 40<<10, 7)) }()
	<-stalled
	select {
	case err := <-done:
		t.Fatalf("published into a full stream: %v", err)
	default:
	}
	keep.Store(100)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	first, err := p.stream.GetMsg(b.ctx, 1)
	if err != nil || first.Subject != wire.EpochSubject("bank") {
		t.Fatalf("the epoch: %+v %v", first, err)
	}
	for seq, want := range map[uint64]error{2: natsjs.ErrMsgNotFound, 3: nil, 4: nil} {
		if _, err := p.stream.GetMsg(b.ctx, seq); !errors.Is(err, want) {
			t.Errorf("message %d: %v, want %v", seq, err, want)
		}
	}
	b.publish(p, batch(7, 10, 8))
	if _, at, ok := b.open(b.config()); !ok || at.Last != 8 {
		t.Fatalf("recovered %+v, %t", at, ok)
	}
}

// A stream without room for an epoch: what nobody needs makes room for a new writer; without that it is refused as full.
func TestOpenFull(t *testing.T) {
	b := newBench(t, StreamConfig{BytesMax: 100 << 10})
	p, _, _ := b.open(b.config())
	b.publish(p, batch(0, 40<<10, 5))
	b.publish(p, batch(5, 40<<10, 6))
	for size := 16 << 10; size > 0; size /= 2 { // to the last byte
		for {
			if _, err := b.js.Publish(b.ctx, "cdc.bank.filler", make([]byte, size)); Full(err) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, _, _, err := Open(b.ctx, b.nc, b.js, b.config()); !Full(err) {
		t.Fatalf("got %v, want that it is full", err)
	}
	c := b.config()
	c.Keep = func(context.Context) (pipeline.Seq, error) { return 100, nil }
	if _, at, ok := b.open(c); !ok || at.Last != 6 {
		t.Fatalf("recovered %+v, %t", at, ok)
	}
}

func TestOpenRefuses(t *testing.T) {
	b := newBench(t, StreamConfig{})
	refused := func(c Config, want string) {
		t.Helper()
		_, _, _, err := Open(b.ctx, b.nc, b.js, c)
		var fatal *FatalError
		if !errors.As(err, &fatal) || !strings.Contains(err.Error(), want) {
			t.Fatalf("got %v, want %q", err, want)
		}
	}
	other := b.config()
	other.Incarnation = "before"
	refused(other, "stream CDC_bank is another one than subscription bank was made with")
	missing := b.config()
	missing.Subscription = "none"
	refused(missing, "stream CDC_none is gone. Try: restore it, or cdcctl drop-subscription none")
	if err := CreateStream(b.ctx, b.js, StreamConfig{Subscription: "bank", Incarnation: "x"}); err == nil {
		t.Fatal("made a stream that exists")
	}
}

// A large transaction goes out in batches that a server can take in one piece; several transactions never in two.
func TestChunks(t *testing.T) {
	part := func(size int) message { return message{data: make([]byte, size)} }
	repeat := func(n, size int) (msgs []message) {
		for range n {
			msgs = append(msgs, part(size))
		}
		return msgs
	}
	for name, c := range map[string]struct {
		msgs []message
		want int
	}{
		"one":        {repeat(1, 20<<20), 1},
		"small":      {repeat(7, 1<<20), 7},
		"many bytes": {repeat(900, 1<<20), 8},
		"many":       {repeat(3000, 10), batchMessages},
	} {
		if n := (&Publisher{together: batchMessages}).chunk(c.msgs); n != c.want {
			t.Errorf("%s: %d messages in the next batch, want %d", name, n, c.want)
		}
	}
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	b.publish(p, batch(0, 20<<20, 5))
	large := p.last
	b.publish(p, batch(5, 1<<20, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17))
	if got := fmt.Sprint(b.read()); got != "[5 6 7 8 9 10 11 12 13 14 15 16 17]" {
		t.Fatal("read", got)
	}
	batches := map[string]bool{}
	for seq := large + 1; seq <= p.last; seq++ {
		m, err := p.stream.GetMsg(b.ctx, uint64(seq))
		if err != nil {
			t.Fatal(err)
		}
		batches[m.Header.Get("Nats-Batch-Id")] = true
	}
	if len(batches) != 1 {
		t.Fatalf("several transactions went out in %d batches", len(batches))
	}
}

// Our own server takes more messages in a batch than others do, and a unit with more than a server takes is refused before
// anything of it is sent.
func TestManyTransactions(t *testing.T) {
	b := newBench(t, StreamConfig{})
	c := b.config()
	c.Format, c.Encoder, c.BatchMax = "json", outputjson.New([]string{"a"}, format.JSONOptions{}), control.EmbeddedBatchMax
	p, _, _ := b.open(c)
	many := func(first, n pipeline.CSN) *pipeline.Batch {
		csns := make([]pipeline.CSN, n)
		for i := range csns {
			csns[i] = first + pipeline.CSN(i)
		}
		return batch(first-1, 10, csns...)
	}
	b.publish(p, many(1, 4000))
	end, err := p.stream.GetMsg(b.ctx, uint64(p.last))
	if err != nil || p.last != 4001 || end.Header.Get(headerBatchSequence) != "4000" || end.Header.Get(wire.HeaderCheckpoint) == "" {
		t.Fatalf("the stream ends at %d with %v, %v", p.last, end.Header, err)
	}
	p.conf.BatchMax = 1000
	if err := p.Publish(b.ctx, many(4001, 1001)); err == nil || !strings.Contains(err.Error(), "1001 messages, and an atomic batch holds 1000") {
		t.Fatal(err)
	}
	b.publish(p, many(4001, 1000))
	if p.last != 5001 {
		t.Fatalf("the stream ends at %d", p.last)
	}
}

// Trimming keeps the checkpoint and the fence, and the writer goes on.
func TestTrim(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	for csn := pipeline.CSN(5); csn < 9; csn++ {
		b.publish(p, batch(csn-1, 10, csn))
	}
	if seq, err := Before(b.ctx, b.js, "bank", time.Now().Add(time.Hour)); err != nil || seq != 6 {
		t.Fatalf("everything is older than the future: %d %v", seq, err)
	}
	if seq, err := Before(b.ctx, b.js, "bank", time.Now().Add(-time.Hour)); err != nil || seq != 1 {
		t.Fatalf("nothing is older than an hour: %d %v", seq, err)
	}
	m, err := p.stream.GetMsg(b.ctx, 4)
	if err != nil {
		t.Fatal(err)
	}
	if seq, err := Before(b.ctx, b.js, "bank", m.Time); err != nil || seq != 4 {
		t.Fatalf("before message 4: %d %v", seq, err)
	}
	old := *p
	if err := p.Trim(b.ctx, 100); err != nil {
		t.Fatal(err)
	}
	info, err := p.stream.Info(b.ctx)
	if err != nil || info.State.FirstSeq != 5 || info.State.LastSeq != 6 {
		t.Fatalf("left: %+v %v", info.State, err)
	}
	if err := old.Publish(b.ctx, batch(8, 10, 9)); !errors.Is(err, ErrFenced) {
		t.Fatalf("a writer of the old epoch got %v", err)
	}
	b.publish(p, batch(8, 10, 9))
	next, at, ok := b.open(b.config())
	if !ok || at.Last != 9 {
		t.Fatalf("recovered %+v, %t", at, ok)
	}
	b.publish(next, batch(9, 10, 10))
	if err := next.Trim(b.ctx, 3); err != nil { // removed long ago
		t.Fatal(err)
	}
}

// Trimming renews the epoch, and a writer that was fenced without knowing must not get the stream back by that: it would
// publish again what the writer after it has published.
func TestTrimFenced(t *testing.T) {
	b := newBench(t, StreamConfig{})
	old, _, _ := b.open(b.config())
	b.publish(old, batch(0, 10, 5))
	b.publish(old, batch(5, 10, 6))
	now, _, _ := b.open(b.config())
	b.publish(now, batch(6, 10, 7))
	if err := old.Trim(b.ctx, 100); !errors.Is(err, ErrFenced) {
		t.Errorf("the old writer's trim: %v", err)
	}
	if err := old.Publish(b.ctx, batch(6, 10, 8)); !errors.Is(err, ErrFenced) {
		t.Errorf("the old writer got %v", err)
	}
	b.publish(now, batch(7, 10, 9))
}
