package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
)

const skipBucket = "CDC_SKIPS"

// Skip tells the apply worker of a target to leave out one transaction, because the target will never take it.
type Skip struct {
	CSN    pipeline.CSN `json:"csn"`
	Reason string       `json:"reason"`
	By     string       `json:"by"` // user@host
	At     time.Time    `json:"at"`
}

// ReasonBytesMax bounds a Skip's reason.
const ReasonBytesMax = 1000

// Skips holds what is to be left out. It is no part of the catalog's entries: a change of these restarts the workers.
type Skips struct {
	js jetstream.JetStream
	kv jetstream.KeyValue
}

// OpenSkips opens the skips and makes their bucket if it is not there.
func OpenSkips(ctx context.Context, js jetstream.JetStream, replicas int) (*Skips, error) {
	kv, err := openBucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: skipBucket, Description: "transactions that targets of shardcdc leave out", History: 1, Replicas: max(replicas, 1),
	})
	if err != nil {
		return nil, fmt.Errorf("open the skips: %w", err)
	}
	return &Skips{js: js, kv: kv}, nil
}

func skipKey(subscription, target, csn string) string { return subscription + "." + target + "." + csn }

// Put orders a skip. It is durable when Put returns without an error. One that was ordered before stays as it was.
func (s *Skips) Put(ctx context.Context, subscription, target string, k Skip) error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	_, err = s.kv.Create(ctx, skipKey(subscription, target, k.CSN.String()), b)
	if err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("order to skip csn %s on target %s: %w", k.CSN, target, err)
	}
	return nil
}

// Get returns the order for one transaction; nil: there is none.
func (s *Skips) Get(ctx context.Context, subscription, target string, csn pipeline.CSN) (*Skip, error) {
	return readOne[Skip](ctx, s.kv, skipKey(subscription, target, csn.String()))
}

// List returns every order for a target, by CSN.
func (s *Skips) List(ctx context.Context, subscription, target string) ([]Skip, error) {
	all, err := readAll[Skip](ctx, s.js, s.kv, skipKey(subscription, target, "*"))
	slices.SortFunc(all, func(a, b Skip) int { return cmp.Compare(a.CSN, b.CSN) })
	return all, err
}

// deleteSkips forgets the orders of a subscription that goes away.
func deleteSkips(ctx context.Context, js jetstream.JetStream, subscription string) error {
	if err := purge(ctx, js, skipBucket, skipKey(subscription, "*", "*")); err != nil {
		return fmt.Errorf("forget the skips of subscription %s: %w", subscription, err)
	}
	return nil
}
