package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

const catalogBucket = "CDC_SUBSCRIPTIONS"

// Catalog holds the subscriptions.
type Catalog struct {
	js jetstream.JetStream
	kv jetstream.KeyValue
}

// Entry is a subscription with the revision that it was read at.
type Entry struct {
	*Subscription
	Revision uint64
}

// ErrNotFound says that there is no subscription of this name.
var ErrNotFound = errors.New("no such subscription")

// OpenCatalog opens the catalog and makes it if it is not there.
func OpenCatalog(ctx context.Context, js jetstream.JetStream, replicas int) (*Catalog, error) {
	kv, err := openBucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: catalogBucket, Description: "subscriptions of shardcdc", History: 10, Replicas: max(replicas, 1),
	})
	if err != nil {
		return nil, fmt.Errorf("open the catalog: %w", err)
	}
	return &Catalog{js: js, kv: kv}, nil
}

// openBucket opens a bucket as it is, and makes it if it is not there. It changes nothing: another process may
// know better, how many replicas for instance.
func openBucket(ctx context.Context, js jetstream.JetStream, c jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	kv, err := js.KeyValue(ctx, c.Bucket)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	kv, err = js.CreateKeyValue(ctx, c)
	if errors.Is(err, jetstream.ErrBucketExists) {
		return js.KeyValue(ctx, c.Bucket) // made by somebody else meanwhile
	}
	return kv, err
}

// Create adds a subscription. One of the same name is an error.
func (c *Catalog) Create(ctx context.Context, s *Subscription) error {
	if err := s.Validate(); err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = c.kv.Create(ctx, s.Name, b)
	if errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("subscription %s exists already. Try: cdcctl status %s, or another name", s.Name, s.Name)
	}
	if err != nil {
		return fmt.Errorf("create subscription %s: %w", s.Name, err)
	}
	return nil
}

// Get reads one subscription.
func (c *Catalog) Get(ctx context.Context, name string) (Entry, error) {
	if err := CheckName("subscription", name); err != nil {
		return Entry{}, err
	}
	e, err := c.kv.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Entry{}, fmt.Errorf("subscription %s: %w. Try: cdcctl list", name, ErrNotFound)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("read subscription %s: %w", name, err)
	}
	s, err := decodeSubscription(e.Value())
	if err != nil {
		return Entry{}, err
	}
	return Entry{Subscription: s, Revision: e.Revision()}, nil
}

// Put writes a changed subscription; it fails if somebody else changed it since it was read.
func (c *Catalog) Put(ctx context.Context, e Entry) error {
	if err := e.Validate(); err != nil {
		return err
	}
	b, err := json.Marshal(e.Subscription)
	if err != nil {
		return err
	}
	if _, err = c.kv.Update(ctx, e.Name, b, e.Revision); err != nil {
		return fmt.Errorf("change subscription %s: %w", e.Name, err)
	}
	return nil
}

// Change reads a subscription, changes it and writes it, again if somebody else wrote in between. An error of change
// leaves it as it is. What change leaves as it was is not written: processes begin anew when an entry was.
func (c *Catalog) Change(ctx context.Context, name string, change func(*Subscription) error) (Entry, error) {
	for {
		e, err := c.Get(ctx, name)
		if err != nil {
			return e, err
		}
		before, err := json.Marshal(e.Subscription)
		if err != nil {
			return e, err
		}
		if err := change(e.Subscription); err != nil {
			return e, err
		}
		if after, err := json.Marshal(e.Subscription); err != nil || bytes.Equal(before, after) {
			return e, err
		}
		if err = c.Put(ctx, e); !moved(err) {
			return e, err
		}
	}
}

// Delete removes a subscription, what it was told to leave out, and its copies.
func (c *Catalog) Delete(ctx context.Context, name string) error {
	if err := deleteSkips(ctx, c.js, name); err != nil {
		return err
	}
	if err := deleteCopies(ctx, c.js, name); err != nil {
		return err
	}
	if err := c.kv.Purge(ctx, name); err != nil {
		return fmt.Errorf("delete subscription %s: %w", name, err)
	}
	return nil
}

// List reads all subscriptions, by name.
func (c *Catalog) List(ctx context.Context) ([]Entry, error) {
	names, err := keysOf(ctx, c.js, catalogBucket, ">")
	if err != nil {
		return nil, fmt.Errorf("list subscriptions: %w", err)
	}
	var all []Entry
	for _, name := range names {
		e, err := c.Get(ctx, name)
		if errors.Is(err, ErrNotFound) {
			continue // dropped between the two reads
		}
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Watch calls changed once, and again whenever the catalog may have changed, until ctx ends or changed fails: a change
// that could not be followed must not wait for the next one, so the caller begins anew.
func (c *Catalog) Watch(ctx context.Context, changed func() error) error {
	return watch(ctx, c.kv, ">", changed)
}

func watch(ctx context.Context, kv jetstream.KeyValue, keys string, changed func() error) error {
	w, err := kv.Watch(ctx, keys, jetstream.MetaOnly())
	if err != nil {
		return fmt.Errorf("watch %s: %w", kv.Bucket(), err)
	}
	defer w.Stop()
	if err := changed(); err != nil {
		return err
	}
	for {
		select {
		case _, ok := <-w.Updates():
			if !ok {
				return fmt.Errorf("watch %s: the watcher ended", kv.Bucket())
			}
			if err := changed(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
