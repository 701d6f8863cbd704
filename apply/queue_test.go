package apply

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

func TestQueueLimits(t *testing.T) {
	for _, tc := range []struct {
		name       string
		bytesMax   int
		unitsMax   int
		unit       Unit
		fits       int
		takesBytes int
		takes      int
	}{
		{"bytes", 250, 100, Unit{Bytes: 100}, 2, 1000, 2},
		{"units", 10000, 3, Unit{Bytes: 100}, 3, 1000, 3},
		{"one may exceed", 10, 100, Unit{Bytes: 100}, 1, 10, 1},
		{"take by bytes", 1000, 100, Unit{Bytes: 100}, 10, 350, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := newQueue(tc.bytesMax, tc.unitsMax)
			fits := 0
			for {
				u := unit(pipeline.Seq(fits+1), pipeline.CSN(fits), pipeline.CSN(fits+1))
				u.Bytes = tc.unit.Bytes
				if !q.tryPut(u) {
					break
				}
				fits++
			}
			units, err := q.take(tc.takesBytes, 1000, 1000)
			if fits != tc.fits || len(units) != tc.takes || err != nil {
				t.Errorf("%d fit, want %d; took %d, want %d; %v", fits, tc.fits, len(units), tc.takes, err)
			}
			if q.bytes != (fits-len(units))*tc.unit.Bytes {
				t.Errorf("%d bytes counted for %d units", q.bytes, fits-len(units))
			}
		})
	}
}

func TestQueueTakesByChangesAndUnits(t *testing.T) {
	q := newQueue(1000, 1000)
	for i := range 6 {
		q.tryPut(unit(pipeline.Seq(i+1), pipeline.CSN(i), pipeline.CSN(i+1))) // 2 changes, 100 bytes each
	}
	for _, want := range []struct{ changes, units, took int }{{5, 100, 2}, {100, 1, 1}, {1, 100, 1}, {100, 100, 2}, {100, 100, 0}} {
		units, err := q.take(1000, want.changes, want.units)
		if len(units) != want.took || err != nil {
			t.Errorf("%+v: took %d, %v", want, len(units), err)
		}
	}
}

// TestQueueHeartbeats become one, keep the highest watermark and the last position, and never fill the queue.
func TestQueueHeartbeats(t *testing.T) {
	q := newQueue(1, 1)
	for _, u := range []Unit{{End: End{Seq: 1, Watermark: 5}}, {End: End{Seq: 2, Watermark: 9}}, {End: End{Seq: 3}}} {
		if !q.tryPut(u) {
			t.Fatal("full")
		}
	}
	units, _ := q.take(1, 1, 1)
	if len(units) != 1 || units[0].Seq != 3 || units[0].Watermark != 9 {
		t.Errorf("got %+v", units)
	}
}

// TestQueueBlocksAndEnds: a full queue holds the reader until there is room; its error comes after the last unit.
func TestQueueBlocksAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1000, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		put := make(chan error, 1)
		if err := q.put(ctx, unit(1, 0, 1)); err != nil {
			t.Fatal(err)
		}
		go func() {
			err := q.put(ctx, unit(2, 1, 2))
			q.fail(errors.New("the end"))
			put <- err
		}()
		synctest.Wait()
		if len(put) != 0 {
			t.Error("did not block")
		}
		for range 2 {
			if units, err := q.take(1000, 1000, 1000); len(units) != 1 || err != nil {
				t.Errorf("got %d, %v", len(units), err)
			}
			synctest.Wait()
		}
		if _, err := q.take(1, 1, 1); <-put != nil || err == nil || err.Error() != "the end" {
			t.Errorf("got %v", err)
		}
		if err := q.put(ctx, unit(1, 0, 1)); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := q.put(ctx, unit(2, 1, 2)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// A backlog is what a limit left in the queue, not what came since.
func TestQueueBacklog(t *testing.T) {
	q := newQueue(1000, 1000)
	put := func(n int) {
		for range n {
			q.tryPut(Unit{Unit: &wire.Unit{}, End: End{Seq: 1}, Bytes: 1})
		}
	}
	for i, step := range []struct {
		put, takes int
		want       bool
	}{{1, 2, false}, {2, 2, false}, {3, 2, true}, {0, 2, false}} {
		put(step.put)
		_, err := q.take(1000, 1000, step.takes)
		if put(1); err != nil || q.backlog() != step.want {
			t.Errorf("step %d: %t, want %t; %v", i, !step.want, step.want, err)
		}
		q.units, q.bytes = q.units[:len(q.units)-1], q.bytes-1
	}
}
