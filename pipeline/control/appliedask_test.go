package control_test

import (
	"errors"
	"testing"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
)

// What a worker remembers is more than a message holds: it comes in parts, whole.
func TestAskApplied(t *testing.T) {
	ctx, bus := newBus(t)
	if _, err := control.AskApplied(ctx, bus.NC, "bank", "t", 0, 1<<63); !errors.Is(err, control.ErrNobody) {
		t.Errorf("without a worker: %v", err)
	}
	log := &control.AppliedLog{}
	const n = 20_000
	at := func(i int) time.Time { return time.UnixMicro(int64(1_800_000_000_000_000 + i)).UTC() }
	for i := 1; i <= n; i++ {
		log.Add(control.AppliedAt{CSN: pipeline.CSN(1<<60 + 10*i), At: at(i)})
	}
	stop, err := control.ServeApplied(bus.NC, "bank", "t", log)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	all, err := control.AskApplied(ctx, bus.NC, "bank", "t", 0, 1<<63)
	if err != nil || len(all.Entries) != n {
		t.Fatalf("%d entries, %v", len(all.Entries), err)
	}
	for i := 1; i <= n; i++ {
		if got := all.When(pipeline.CSN(1<<60 + 10*i - 3)); !got.Equal(at(i)) {
			t.Fatalf("entry %d: %s, want %s", i, got, at(i))
		}
	}
	some, err := control.AskApplied(ctx, bus.NC, "bank", "t", 1<<60+10*50, 1<<60+10*60)
	if err != nil || some.Entries[0].CSN != 1<<60+10*50 || some.Since != 1<<60+10*49 || len(some.Entries) == n {
		t.Errorf("a range: %d entries from %s, since %s, %v", len(some.Entries), some.Entries[0].CSN, some.Since, err)
	}
}
