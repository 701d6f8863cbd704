package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/wire"
)

// lookEvery is the time between two looks at the target: delays are known to this, and are never shown too short.
const lookEvery = time.Millisecond

// targetConsumer looks at the target's marker table.
type targetConsumer struct {
	dsn     string
	native  bool
	status  func(ctx context.Context) (transactions int64, err error) // what ours has applied
	applied atomic.Int64
	last    int64 // marker that was seen
}

const nativeConsumer = "native"

func (c *targetConsumer) String() string {
	if c.native {
		return nativeConsumer
	}
	return "target"
}

func (c *targetConsumer) passed() int64 { return c.applied.Load() }

func (c *targetConsumer) run(ctx context.Context, seen func(n int64, at time.Time)) error {
	conn, err := pgx.Connect(ctx, c.dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	looks := 0
	err = every(ctx, lookEvery, "the load ends", func() (bool, error) {
		last := int64(0)
		if err := conn.QueryRow(ctx, "SELECT coalesce(max(n), 0) FROM "+markerTable+" WHERE shard = 0").Scan(&last); err != nil {
			return false, err
		}
		at := time.Now()
		for ; c.last < last; c.last++ {
			seen(c.last+1, at)
		}
		if looks++; looks%10 == 0 && !c.native {
			applied, err := c.status(ctx)
			if err != nil {
				return false, err
			}
			c.applied.Store(max(c.applied.Load(), applied))
		}
		return false, nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// applied asks the apply worker.
func (s *site) applied(ctx context.Context) (transactions int64, err error) {
	st, err := control.AskApply(ctx, s.bus.NC, s.sub.Name, "target")
	if err != nil && !errors.Is(err, control.ErrNobody) {
		return 0, err
	}
	if st.Error != "" {
		return 0, fmt.Errorf("the apply worker stopped: %s", st.Error)
	}
	return int64(st.Transactions), nil
}

// jsonConsumer receives the stream as any consumer of JSON would.
type jsonConsumer struct {
	js           jetstream.JetStream
	subscription string
	received     atomic.Int64
	last         uint64 // stream sequence of the last message received
}

func (*jsonConsumer) String() string { return "JSON" }

func (c *jsonConsumer) passed() int64 { return c.received.Load() }

func (c *jsonConsumer) run(ctx context.Context, seen func(n int64, at time.Time)) error {
	ordered, err := c.js.OrderedConsumer(ctx, wire.StreamName(c.subscription), jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{wire.Subject(c.subscription)}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: c.last + 1,
	})
	if err != nil {
		return err
	}
	messages, err := ordered.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	for {
		m, err := messages.Next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		at := time.Now()
		c.received.Add(1)
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		c.last = meta.Sequence.Stream
		n, ok, err := markerOf(m.Data())
		if err != nil {
			return err
		}
		if ok {
			seen(n, at)
		}
	}
}

// markerOf reads a marker's number out of a transaction.
func markerOf(data []byte) (n int64, ok bool, err error) {
	if !bytes.Contains(data, []byte(markerTable)) {
		return 0, false, nil
	}
	var tx struct {
		Changes []struct {
			Op, Table string
			After     struct{ N int64 }
		}
	}
	if err := json.Unmarshal(data, &tx); err != nil {
		return 0, false, fmt.Errorf("a transaction in JSON: %w", err)
	}
	for _, change := range tx.Changes {
		if change.Table == markerTable && change.Op == "insert" {
			return change.After.N, true, nil
		}
	}
	return 0, false, nil
}
