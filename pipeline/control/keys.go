package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// keysOf lists the keys of a bucket that a filter matches, deleted ones too, in order. It asks for the subjects of the stream
// behind the bucket: the library's own listing reads the last message of each key, one by one, and leaves out a key that is
// written meanwhile.
func keysOf(ctx context.Context, js jetstream.JetStream, bucket, filter string) ([]string, error) {
	s, err := js.Stream(ctx, "KV_"+bucket)
	if err != nil {
		return nil, err
	}
	prefix := "$KV." + bucket + "."
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(prefix+filter))
	if err != nil {
		return nil, err
	}
	var keys []string
	for subject := range maps.Keys(info.State.Subjects) {
		keys = append(keys, strings.TrimPrefix(subject, prefix))
	}
	slices.Sort(keys)
	return keys, nil
}

// revised is what remembers the revision that it was read at.
type revised interface{ readAt(revision uint64) }

// readOne reads a key; nil: it has no value.
func readOne[T any](ctx context.Context, kv jetstream.KeyValue, key string) (*T, error) {
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	v := new(T)
	if err == nil {
		err = unpack(e.Value(), v)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if v, ok := any(v).(revised); ok {
		v.readAt(e.Revision())
	}
	return v, nil
}

// readAll reads every key that a filter matches and that has a value.
func readAll[T any](ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue, filter string) ([]T, error) {
	keys, err := keysOf(ctx, js, kv.Bucket(), filter)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", filter, err)
	}
	all := []T{}
	for _, key := range keys {
		v, err := readOne[T](ctx, kv, key)
		if err != nil {
			return nil, err
		}
		if v != nil { // else it was dropped between the two reads
			all = append(all, *v)
		}
	}
	return all, nil
}

// purge forgets the keys of a bucket that a filter matches. A bucket that is not there has none.
func purge(ctx context.Context, js jetstream.JetStream, bucket, filter string) error {
	kv, err := js.KeyValue(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil
	}
	var keys []string
	if err == nil {
		keys, err = keysOf(ctx, js, bucket, filter)
	}
	for _, key := range keys {
		err = errors.Join(err, kv.Purge(ctx, key))
	}
	return err
}

// count is the number of keys of a bucket that have a value.
func count(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue) (n int, err error) {
	keys, err := keysOf(ctx, js, kv.Bucket(), ">")
	for _, key := range keys {
		_, getErr := kv.Get(ctx, key)
		switch {
		case getErr == nil:
			n++
		case !errors.Is(getErr, jetstream.ErrKeyNotFound):
			err = errors.Join(err, getErr)
		}
	}
	return n, err
}
