package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"shardcdc/output"
	"shardcdc/output/jetstream"
	outputjson "shardcdc/output/json"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/reading"
	"shardcdc/pipeline/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// origin is where a stream is captured: a server, the subscription, its writer.
type origin struct {
	*testing.T
	bus  *control.Bus
	sub  *control.Subscription
	pub  *jetstream.Publisher
	last pipeline.CSN
}

func newOrigin(t *testing.T, f format.Format) *origin {
	o := &origin{T: t, bus: natstest.Bus(t)}
	o.sub = control.NewSubscription("bank", "inc-1", time.Unix(1_700_000_000, 0).UTC())
	o.sub.Format, o.sub.JSON = f.Name, f.JSON
	o.sub.Shards = []control.Shard{{Name: "a", DSN: "postgres://cdc@secret.example/bank", Slot: "cdc_bank_a", OwnSlot: true}}
	o.sub.Targets = []control.Target{{Name: "t", DSN: "postgres://cdc@target.example/bank"}}
	if f.Name != format.Internal {
		o.sub.Targets = nil
	}
	if err := jetstream.CreateStream(t.Context(), o.bus.JS, jetstream.StreamConfig{Subscription: "bank", Incarnation: "inc-1"}); err != nil {
		t.Fatal(err)
	}
	catalog, err := control.OpenCatalog(t.Context(), o.bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := catalog.Create(t.Context(), o.sub); err != nil {
		t.Fatal(err)
	}
	o.takeOver()
	return o
}

func (o *origin) takeOver() {
	o.Helper()
	var encoder output.Encoder = output.NewInternal()
	switch {
	case o.sub.JSON.Layout == format.ByRow:
		encoder = outputjson.NewRows("bank", []string{"a"}, o.sub.JSON)
	case o.sub.Format == format.JSON:
		encoder = outputjson.New([]string{"a"}, o.sub.JSON)
	}
	p, _, _, err := jetstream.Open(o.Context(), o.bus.NC, o.bus.JS, jetstream.Config{
		Subscription: "bank", Incarnation: "inc-1", Node: "n", Format: o.sub.Format, Encoder: encoder, BatchMax: o.bus.BatchMax(),
	})
	if err != nil {
		o.Fatal(err)
	}
	o.pub = p
}

// accounts is a table (id int4 primary key, note text).
var accounts = func() *pipeline.Relation {
	r, err := pipeline.ParseRelation([]byte("R\x00\x00\x40\x10public\x00accounts\x00d\x00\x02\x01id\x00\x00\x00\x00\x17\xff\xff\xff\xff\x00note\x00\x00\x00\x00\x19\xff\xff\xff\xff"), nil)
	if err != nil {
		panic(err)
	}
	return r
}()

// publish publishes a unit of transactions with so many rows each.
func (o *origin) publish(rows ...int) {
	o.Helper()
	b := &pipeline.Batch{Previous: o.last}
	for _, n := range rows {
		o.last += 10
		f := &pipeline.Fragment{XID: 7, Start: pipeline.LSN(o.last), End: pipeline.LSN(o.last + 5), Relations: []pipeline.RelationUse{{Relation: accounts}}}
		for i := range n {
			id := fmt.Sprint(i)
			msg := append([]byte{'I', 0, 0, 0x40, 0x10, 'N', 0, 2, 't', 0, 0, 0, byte(len(id))}, id...)
			f.Append(append(msg, append([]byte{'t', 0, 0, 0, 200}, strings.Repeat("x", 200)...)...))
		}
		b.Transactions = append(b.Transactions, &pipeline.Transaction{CSN: o.last, GID: fmt.Sprintf("g%d", o.last), CommitTime: pipeline.Timestamp(o.last), Fragments: []*pipeline.Fragment{f}})
	}
	b.Checkpoint = pipeline.Checkpoint{Last: o.last, Watermark: o.last, Shards: []pipeline.ShardCheckpoint{{Through: pipeline.LSN(o.last + 5)}}}
	if err := o.pub.Publish(o.Context(), b); err != nil {
		o.Fatal(err)
	}
}

func (o *origin) live() *reading.Stream {
	o.Helper()
	s, err := reading.Live(o.Context(), o.bus.JS, "bank")
	if err != nil {
		o.Fatal(err)
	}
	return s
}

func (o *origin) export(r Range) string {
	o.Helper()
	path := filepath.Join(o.TempDir(), "bank.cdc")
	if _, _, err := Export(o.Context(), o.live(), o.sub, path, r); err != nil {
		o.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// messages are a source's, each on a line: what a reader sees of it, but for its time.
func messages(t *testing.T, s reading.Source, from, to pipeline.Seq, name string) string {
	t.Helper()
	var b strings.Builder
	for seq := from; seq <= to; seq++ {
		m, err := s.Get(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%d %s", m.Seq, strings.Replace(m.Subject, "cdc."+name+".", "cdc.bank.", 1))
		for _, h := range sortedNames(m.Header) {
			if !strings.HasPrefix(h, "Nats-") {
				fmt.Fprintf(&b, " %s=%s", h, m.Header.Get(h))
			}
		}
		fmt.Fprintf(&b, " %x\n", m.Data)
	}
	return b.String()
}

func same(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%.3000s\nwant\n%.3000s", what, got, want)
	}
}

var formats = map[string]format.Format{
	"internal":    {Name: format.Internal},
	"transaction": {Name: format.JSON},
	"row":         {Name: format.JSON, JSON: format.JSONOptions{Layout: format.ByRow}},
}

// A stream that is carried over in several files is the same on the other side, whatever its format.
func TestCarry(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, f)
			o.publish(1, 2, 3)
			o.publish(10000) // several messages in every format
			first := o.export(Range{})
			o.takeOver()
			o.publish(4)
			o.publish()
			o.publish(700, 1)
			second := o.export(Range{From: 40})
			_, last := o.live().Borders()

			there := natstest.Bus(t)
			done, err := Import(t.Context(), there, open(t, first), Options{})
			if err != nil || !done.Created || done.First != 1 || done.CSN != 40 || done.Messages != int64(done.Last) {
				t.Fatalf("first file: %+v %v", done, err)
			}
			again, err := Import(t.Context(), there, open(t, first), Options{})
			if err != nil || again.Created || again.Messages != 0 {
				t.Errorf("the first file again: %+v %v", again, err)
			}
			more, err := Import(t.Context(), there, open(t, second), Options{})
			if err != nil || more.Created || more.Last != last || more.Messages != int64(last-done.Last) {
				t.Errorf("second file: %+v %v, want up to %d", more, err, last)
			}
			s, err := reading.Live(t.Context(), there.JS, "bank")
			if err != nil {
				t.Fatal(err)
			}
			same(t, "imported", messages(t, s, 1, last, "bank"), messages(t, o.live(), 1, last, "bank"))
			if got := s.Info().Config.Metadata[wire.MetadataIncarnation]; got != "inc-1" {
				t.Errorf("incarnation %q", got)
			}
			catalog, err := control.OpenCatalog(t.Context(), there.JS, 1)
			if err != nil {
				t.Fatal(err)
			}
			e, err := catalog.Get(t.Context(), "bank")
			if err != nil || !e.Imported || e.Incarnation != "inc-1" || e.Shards[0].Name != "a" || e.Shards[0].DSN != "" || e.Shards[0].OwnSlot || len(e.Targets) != 0 {
				t.Errorf("entry %+v %v", e.Subscription, err)
			}
			raw, err := os.ReadFile(first)
			if err != nil || strings.Contains(string(raw), "example") {
				t.Errorf("the file says where databases are (%v)", err)
			}
		})
	}
}

// A range begins and ends with units, also where the stream's beginning was removed, and where a unit is unfinished.
func TestWholeUnits(t *testing.T) {
	o := newOrigin(t, format.Format{Name: format.JSON})
	o.publish(1, 1, 1) // sequence 2 to 4, behind the epoch
	o.publish(1, 1)    // 5, 6
	o.publish(1)       // 7
	ctx := o.Context()
	unfinished := "cdc.bank._tx"
	for _, c := range []struct {
		r           Range
		first, last pipeline.Seq
	}{
		{Range{}, 1, 7},
		{Range{From: 20}, 1, 7}, // its unit's predecessor is none: from the beginning
		{Range{From: 45}, 5, 7},
		{Range{From: 45, To: 45}, 5, 6},
		{Range{To: 10}, 1, 4},
		{Range{From: 60, To: 999}, 7, 7},
	} {
		f := open(t, o.export(c.r))
		if f.Head.First != c.first || f.End.Last != c.last {
			t.Errorf("range %+v: sequence %d to %d, want %d to %d", c.r, f.Head.First, f.End.Last, c.first, c.last)
		}
	}
	stream, err := o.bus.JS.Stream(ctx, "CDC_bank")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.pub.Trim(ctx, 3); err != nil { // an epoch is written, and the first unit has lost its beginning
		t.Fatal(err)
	}
	if m, err := stream.GetMsg(ctx, 3); err != nil || m.Subject != unfinished {
		t.Fatal(m, err)
	}
	f := open(t, o.export(Range{}))
	if f.Head.First != 5 || f.End.Last != 7 {
		t.Errorf("after a trim: sequence %d to %d, want 5 to 7", f.Head.First, f.End.Last)
	}
	o.publish(1, 1)                                                                                              // 9, 10
	if err := stream.Purge(ctx, natsjs.WithPurgeSubject(unfinished), natsjs.WithPurgeSequence(10)); err != nil { // as when it was full
		t.Fatal(err)
	}
	if _, _, err := Export(ctx, o.live(), o.sub, filepath.Join(t.TempDir(), "none"), Range{}); !errors.Is(err, ErrNothing) {
		t.Errorf("an epoch, a gap and half a unit: %v", err)
	}
	o.publish(1) // 11
	if f := open(t, o.export(Range{})); f.Head.First != 11 || f.End.Last != 11 {
		t.Errorf("behind a gap: sequence %d to %d, want 11", f.Head.First, f.End.Last)
	}
	path := filepath.Join(t.TempDir(), "none")
	if _, _, err := Export(ctx, o.live(), o.sub, path, Range{From: 999}); !errors.Is(err, ErrNothing) {
		t.Errorf("nothing: %v", err)
	}
	if left, _ := filepath.Glob(path + "*"); left != nil {
		t.Errorf("left: %s", left)
	}
}

// An import that is stopped anywhere goes on.
func TestResume(t *testing.T) {
	o := newOrigin(t, format.Format{Name: format.JSON, JSON: format.JSONOptions{Layout: format.ByRow}})
	o.publish(2500)
	path := o.export(Range{})
	there := natstest.Bus(t)
	stops := 0
	for {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Import(ctx, there, open(t, path), Options{Name: "copy", Progress: func(pipeline.Seq) { cancel() }})
		cancel()
		if err == nil {
			break
		}
		if stops++; stops > 100 || !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if catalog, err := control.OpenCatalog(t.Context(), there.JS, 1); err != nil {
			t.Fatal(err)
		} else if _, err := catalog.Get(t.Context(), "copy"); !errors.Is(err, control.ErrNotFound) {
			t.Error("the subscription is there before its first file")
		}
	}
	if stops < 3 {
		t.Errorf("stopped %d times only", stops)
	}
	s, err := reading.Live(t.Context(), there.JS, "copy")
	if err != nil {
		t.Fatal(err)
	}
	_, last := o.live().Borders()
	same(t, "imported", messages(t, s, 1, last, "copy"), messages(t, o.live(), 1, last, "bank"))
}

// Who else writes into the stream meanwhile is noticed, and nothing is stored behind that.
func TestAlone(t *testing.T) {
	o := newOrigin(t, format.Format{Name: format.JSON, JSON: format.JSONOptions{Layout: format.ByRow}})
	o.publish(1200)
	path := o.export(Range{})
	there := natstest.Bus(t)
	var foreign uint64
	_, err := Import(t.Context(), there, open(t, path), Options{Progress: func(pipeline.Seq) {
		if foreign > 0 {
			return
		}
		ack, err := there.JS.Publish(t.Context(), "cdc.bank.public.accounts", []byte("{}"))
		if err != nil {
			t.Error(err)
		}
		foreign = ack.Sequence
	}})
	wants(t, err, "wrong last sequence")
	s, err := reading.Live(t.Context(), there.JS, "bank")
	if err != nil {
		t.Fatal(err)
	}
	if _, last := s.Borders(); uint64(last) != foreign {
		t.Errorf("the stream ends at %d, want %d", last, foreign)
	}
}
