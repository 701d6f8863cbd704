package subscribe

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/wire"
)

// TestUndoWhenTheAnswerWasLost: the entry and the stream were made although the call that made them failed. They go; those
// of somebody else who was faster stay.
func TestUndoWhenTheAnswerWasLost(t *testing.T) {
	bus := external(t, "", "10s")
	catalog, err := control.OpenCatalog(t.Context(), bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	made := func() *creation {
		spec := Spec{Name: "bank", Shards: []Shard{{Name: "a", DSN: "postgres://nowhere/bank"}}}.withDefaults()
		return &creation{bus: bus, catalog: catalog, spec: &spec, sub: spec.subscription(), made: []bool{false}, stream: true, entry: true}
	}
	there := func() (entry, stream bool) {
		_, err := catalog.Get(t.Context(), "bank")
		_, errStream := bus.JS.Stream(t.Context(), wire.StreamName("bank"))
		return !errors.Is(err, control.ErrNotFound), !errors.Is(errStream, jetstream.ErrStreamNotFound)
	}
	c := made()
	if err := c.finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	lost := errors.New("the answer was lost")
	if err := made().undo(t.Context(), lost); !errors.Is(err, lost) {
		t.Error(err)
	}
	if entry, stream := there(); !entry || !stream {
		t.Errorf("somebody else's: entry %v, stream %v", entry, stream)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.undo(ctx, lost); !errors.Is(err, lost) {
		t.Error(err)
	}
	if entry, stream := there(); entry || stream {
		t.Errorf("our own: entry %v, stream %v", entry, stream)
	}
}
