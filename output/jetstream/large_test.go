package jetstream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shardcdc/output"
	outputjson "shardcdc/output/json"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// content is a body that is elsewhere than in memory; a broken one is so behind its first half.
type content struct {
	body   []byte
	broken bool
}

var errDisk = errors.New("disk gone")

func (c *content) Size() int64 { return int64(len(c.body)) }
func (c *content) Release()    {}
func (c *content) Open() (io.ReadCloser, error) {
	if c.broken {
		return io.NopCloser(io.MultiReader(bytes.NewReader(c.body[:len(c.body)/2]), failing{})), nil
	}
	return io.NopCloser(bytes.NewReader(c.body)), nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errDisk }

// large moves a batch's rows out of memory.
func large(b *pipeline.Batch) *pipeline.Batch {
	for _, tx := range b.Transactions {
		for _, f := range tx.Fragments {
			f.Content, f.Body = &content{body: f.Body}, nil
		}
	}
	return b
}

// rows makes one transaction of n rows of size bytes.
func rows(previous, csn pipeline.CSN, n, size int) *pipeline.Batch {
	b := batch(previous, size, csn)
	f := b.Transactions[0].Fragments[0]
	for row := f.Body[4:]; f.Changes < n; {
		f.Append(row)
	}
	return b
}

// parts returns the transactions' messages from a sequence on.
func (b *bench) parts(p *Publisher, from pipeline.Seq) (data [][]byte, headers []string) {
	b.t.Helper()
	for seq := from; seq <= p.last; seq++ {
		m, err := p.stream.GetMsg(b.ctx, uint64(seq))
		if err != nil {
			b.t.Fatal(err)
		}
		if m.Subject == wire.Subject("bank") {
			data, headers = append(data, m.Data), append(headers, m.Header.Get(wire.HeaderPart))
		}
	}
	return data, headers
}

// What is stored of a large transaction is what would be stored of it in memory, whatever its size.
func TestLarge(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	limit := p.limit
	csn := pipeline.CSN(0)
	for name, c := range map[string]struct{ rows, size int }{
		"one message":             {1, 100},
		"rows of 1 MB":            {21, 1 << 20},
		"a row beyond a message":  {1, 30 << 20},
		"small rows":              {50_000, 100},
		"the limit, within a row": {1, limit - 300},
	} {
		first := p.last + 1
		b.publish(p, large(rows(csn, csn+1, c.rows, c.size)))
		csn++
		data, headers := b.parts(p, first)
		want := rows(csn-1, csn, c.rows, c.size)
		frame, err := new(wire.Encoder).AppendUnit(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bytes.Join(data, nil), frame) {
			t.Errorf("%s: another payload", name)
		}
		for k, part := range wire.Split(frame, limit) {
			header := wire.PartHeader(k+1, len(data))
			if len(data) == 1 {
				header = ""
			}
			if !bytes.Equal(part, data[k]) || headers[k] != header {
				t.Errorf("%s: part %d has %d bytes of %d, header %q", name, k+1, len(data[k]), len(part), headers[k])
			}
		}
	}
	if _, at, ok := b.open(b.config()); !ok || at.Last != csn {
		t.Fatalf("recovered %+v", at)
	}
	b.want(1, 2, 3, 4, 5)
}

func TestLargeJSON(t *testing.T) {
	b := newBench(t, StreamConfig{})
	c := b.config()
	c.Format, c.Encoder = "json", outputjson.New([]string{"a"}, format.JSONOptions{})
	p, _, _ := b.open(c)
	first := p.last + 1
	b.publish(p, large(rows(0, 1, 100_000, 100)))
	data, _ := b.parts(p, first)
	want, err := outputjson.New([]string{"a"}, format.JSONOptions{}).Encode(rows(0, 1, 100_000, 100))
	if err != nil || !bytes.Equal(bytes.Join(data, nil), want[0].Data) {
		t.Fatalf("another payload in %d parts: %v", len(data), err)
	}
	if len(data) < 10 {
		t.Fatalf("%d parts only: one batch held it", len(data))
	}
}

// A server that takes larger messages gets them: each is stored alone, which it writes once, and one that fits ends its unit.
func TestLargeMessages(t *testing.T) {
	b := newBench(t, StreamConfig{})
	b.limit = MessageBytesMax
	p, _, _ := b.open(b.config())
	if p.limit != MessageBytesMax {
		t.Fatalf("messages of %d bytes", p.limit)
	}
	b.publish(p, batch(0, 3<<19, 5))
	if p.last != 2 {
		t.Fatalf("a unit that fits took %d messages", p.last-1)
	}
	b.publish(p, batch(5, 18<<20, 6))
	b.publish(p, large(rows(6, 7, 9, 2<<20)))
	for seq := pipeline.Seq(3); seq <= p.last; seq++ {
		m, err := p.stream.GetMsg(b.ctx, uint64(seq))
		if err != nil {
			t.Fatal(err)
		}
		if id := m.Header.Get(headerBatchID); id != "" {
			t.Errorf("message %d of %d bytes is in an atomic batch", seq, len(m.Data))
		}
	}
	if p.last != 2+10+10 {
		t.Fatalf("twice 18 MB are %d messages", p.last-2)
	}
	b.want(5, 6, 7)
}

// A payload that is shorter or longer than it said has no end.
func TestLargeLies(t *testing.T) {
	b := newBench(t, StreamConfig{})
	for _, c := range []liar{{said: 20 << 20, size: 20<<20 - 1}, {said: 20 << 20, size: 20<<20 + 1}, {said: 9, size: 20 << 20}, {said: 20 << 20, size: 9}} {
		conf := b.config()
		conf.Encoder = c
		p, _, _ := b.open(conf)
		if err := p.Publish(b.ctx, batch(0, 1, 7)); err == nil {
			t.Errorf("%d bytes taken for %d", c.size, c.said)
		}
		if _, at, ok := b.open(conf); ok {
			t.Fatalf("recovered %+v", at)
		}
	}
}

// liar writes another number of bytes than it says.
type liar struct{ said, size int64 }

func (l liar) Encode(b *pipeline.Batch) ([]output.Payload, error) {
	return []output.Payload{{Large: l, CSN: b.Last(), Transactions: 1}}, nil
}

func (l liar) Size() int64 { return l.said }
func (l liar) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(make([]byte, l.size))
	return int64(n), err
}

// Memory is a batch of messages, not the transaction.
func TestLargeIsBounded(t *testing.T) {
	const size = 200 << 20
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	tx := rows(0, 1, 1, 1<<20)
	f := tx.Transactions[0].Fragments[0]
	row := f.Body
	f.Changes, f.Body, f.Content = size>>20, nil, repeated{row, size >> 20}
	var most uint64
	watch := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			case <-watch:
				return
			}
		}
	})
	b.publish(p, tx)
	close(watch)
	done.Wait()
	t.Logf("%d MB published, %d MB of heap at most, with the server's", size>>20, most>>20)
	if most > size*3/4 {
		t.Errorf("%d MB of heap", most>>20)
	}
	if _, at, ok := b.open(b.config()); !ok || at.Last != 1 {
		t.Fatalf("recovered %+v", at)
	}
}

// Messages are filled again when they are stored: nothing is allocated per batch but headers.
func TestLargeReusesBuffers(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	u, err := p.newUnit(batch(0, 1, 7))
	if err != nil {
		t.Fatal(err)
	}
	const size = 40 << 20
	w := &parts{u: u, ctx: b.ctx, subject: wire.Subject("bank"), csn: "7", left: size, n: size/p.limit + 1}
	buffers := map[*byte]bool{}
	for range size >> 16 {
		if _, err := w.Write(make([]byte, 1<<16)); err != nil {
			t.Fatal(err)
		}
		last := w.batch[len(w.batch)-1].data
		buffers[&last[0]] = true
	}
	if most := batchBytes/p.limit + 1; w.k != w.n || w.left != 0 || len(buffers) > most {
		t.Errorf("%d parts of %d in %d buffers, at most %d are needed", w.k, w.n, len(buffers), most)
	}
}

// repeated is a body of n equal rows that was never in memory.
type repeated struct {
	row []byte
	n   int
}

func (r repeated) Size() int64 { return int64(r.n * len(r.row)) }
func (r repeated) Release()    {}
func (r repeated) Open() (io.ReadCloser, error) {
	readers := make([]io.Reader, r.n)
	for i := range readers {
		readers[i] = bytes.NewReader(r.row)
	}
	return io.NopCloser(io.MultiReader(readers...)), nil
}

// A writer that was fenced in the middle stops, and says so.
func TestLargeFenced(t *testing.T) {
	b := newBench(t, StreamConfig{})
	old, _, _ := b.open(b.config())
	now, _, _ := b.open(b.config())
	if err := old.Publish(b.ctx, large(rows(0, 6, 30, 1<<20))); !errors.Is(err, ErrFenced) {
		t.Fatalf("the old writer got %v", err)
	}
	b.publish(now, large(rows(0, 8, 30, 1<<20)))
	b.want(8)
}

// with adds open fragments to a batch's checkpoint.
func with(batch *pipeline.Batch, open int) *pipeline.Batch {
	for i := range open {
		s := &batch.Checkpoint.Shards[0]
		s.Open = append(s.Open, pipeline.OpenPrepare{XID: pipeline.XID(i), GID: fmt.Sprintf("citus_0_1234_%d_0", i)})
	}
	return batch
}

// A large checkpoint outlives the server's restart as it was.
func TestLargeCheckpointAfterRestart(t *testing.T) {
	dir := t.TempDir()
	b, srv := startServer(t, dir, "")
	if err := CreateStream(b.ctx, b.js, StreamConfig{Subscription: "bank", Incarnation: "inc"}); err != nil {
		t.Fatal(err)
	}
	p, _, _ := b.open(b.config())
	b.publish(p, with(batch(0, 10, 5), 100_000))
	b.nc.Close()
	srv.Close()
	b, _ = startServer(t, dir, "")
	_, at, ok := b.open(b.config())
	if diff := cmp.Diff(with(batch(0, 10, 5), 100_000).Checkpoint, at); !ok || diff != "" {
		t.Fatal(ok, diff)
	}
	b.want(5)
}

// open fragments make a checkpoint large; it comes back, also after trimming, and readers see the unit.
func TestLargeCheckpoint(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	check := func(last pipeline.CSN, open int) *Publisher {
		t.Helper()
		p, at, ok := b.open(b.config())
		if !ok || at.Last != last || len(at.Shards[0].Open) != open {
			t.Fatalf("recovered %t csn %s with %d open fragments, want csn %s with %d", ok, at.Last, len(at.Shards[0].Open), last, open)
		}
		if open > 0 && at.Shards[0].Open[open-1].GID != fmt.Sprintf("citus_0_1234_%d_0", open-1) {
			t.Fatalf("the last one is %+v", at.Shards[0].Open[open-1])
		}
		return p
	}
	b.publish(p, with(batch(0, 10, 5), 2000)) // one message and its checkpoint in another
	p = check(5, 2000)
	b.publish(p, with(batch(5, 10, 6, 7), 100_000)) // in several
	b.publish(p, with(batch(7, 0), 100_000))        // alone
	p = check(7, 100_000)
	b.publish(p, with(large(batch(7, 20<<20, 8)), 100_000))
	before := p.last
	if err := p.Trim(b.ctx, 1<<60); err != nil {
		t.Fatal(err)
	}
	if _, err := p.stream.GetMsg(b.ctx, uint64(before-10)); err == nil {
		t.Fatal("nothing was trimmed")
	}
	p = check(8, 100_000)
	b.publish(p, with(batch(8, 10, 9), 100_000))
	b.tear(p, 9, 10) // the beginning of a unit refers to the end of the one before
	p = check(9, 100_000)
	b.publish(p, batch(9, 10, 10)) // and it may become small again
	p = check(10, 0)
	if err := p.Publish(b.ctx, with(batch(10, 10, 11), 2_000_000)); err == nil {
		t.Fatal("a checkpoint without limit")
	}
}

// Readers that look at transactions only see every end mark, and checkpoints only move the position.
func TestLargeCheckpointIsNotInTheWay(t *testing.T) {
	b := newBench(t, StreamConfig{})
	p, _, _ := b.open(b.config())
	heavy := func(batch *pipeline.Batch) *pipeline.Batch {
		batch.Checkpoint.Shards[0].Open = make([]pipeline.OpenPrepare, 50_000)
		return batch
	}
	b.publish(p, heavy(batch(0, 10, 5)))
	b.publish(p, heavy(batch(5, 3<<20, 6)))
	b.publish(p, heavy(large(batch(6, 20<<20, 7))))
	b.want(5, 6, 7)
}
