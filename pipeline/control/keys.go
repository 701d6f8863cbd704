package control

import (
	"context"
	"errors"
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
