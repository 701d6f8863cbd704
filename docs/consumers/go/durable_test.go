package main

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline/embedded/natstest"
)

// What consumers.md says of durable consumers: after a crash they give what is behind first, and then what was delivered before;
// one that is reset to a position gives everything behind it in order.
func TestDurable(t *testing.T) {
	js := natstest.Bus(t).JS
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const messages, delivered, acknowledged = 20, 8, 3
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{subject}}); err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		if _, err := js.Publish(ctx, subject, []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	durable, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckAllPolicy, AckWait: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	read := func(n, acknowledge int) (sequences []uint64) {
		for len(sequences) < n {
			m, err := durable.Next()
			if err != nil {
				t.Fatal(err)
			}
			at, err := m.Metadata()
			if err != nil {
				t.Fatal(err)
			}
			if sequences = append(sequences, at.Sequence.Stream); len(sequences) == acknowledge {
				if err := m.DoubleAck(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
		return sequences
	}
	read(delivered, acknowledged)
	// The process has died.
	after := read(messages-acknowledged, 0)
	if first, again := slices.Index(after, delivered+1), slices.Index(after, acknowledged+1); first < 0 || again < first {
		t.Errorf("after the crash came %v: in order?", after)
	}
	if _, err := js.ResetConsumerToSequence(ctx, stream, "d", acknowledged+1); err != nil {
		t.Fatal(err)
	}
	if again := read(messages-acknowledged, 0); !slices.IsSorted(again) || again[0] != acknowledged+1 {
		t.Errorf("after the reset came %v", again)
	}
}
