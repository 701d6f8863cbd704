package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Stores are what the package makes in JetStream: buckets, and the history.
var stores = []string{catalogBucket, copyBucket, leaseBucket, skipBucket}

// Stored lists what of it is there, for people.
func Stored(ctx context.Context, js jetstream.JetStream) (there []string, err error) {
	for _, name := range stores {
		kv, err := js.KeyValue(ctx, name)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			continue
		}
		if err != nil {
			return there, fmt.Errorf("look for bucket %s: %w", name, err)
		}
		keys, err := count(ctx, js, kv)
		if err != nil {
			return there, fmt.Errorf("look into bucket %s: %w", name, err)
		}
		there = append(there, fmt.Sprintf("bucket %s, %d keys", name, keys))
	}
	s, err := js.Stream(ctx, historyStream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return there, nil
	case err != nil:
		return there, fmt.Errorf("look for stream %s: %w", historyStream, err)
	}
	return append(there, fmt.Sprintf("stream %s, %d events", historyStream, s.CachedInfo().State.Msgs)), nil
}

// HasCatalog says whether there is a catalog; opening it makes one.
func HasCatalog(ctx context.Context, js jetstream.JetStream) (bool, error) {
	_, err := js.KeyValue(ctx, catalogBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return false, nil
	}
	return err == nil, err
}

// DeleteStores removes all of it, the history last.
func DeleteStores(ctx context.Context, js jetstream.JetStream) (removed []string, err error) {
	for _, name := range stores {
		err := js.DeleteKeyValue(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrBucketNotFound):
		case err != nil:
			return removed, fmt.Errorf("delete bucket %s: %w", name, err)
		default:
			removed = append(removed, "bucket "+name)
		}
	}
	err = js.DeleteStream(ctx, historyStream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return removed, nil
	case err != nil:
		return removed, fmt.Errorf("delete stream %s: %w", historyStream, err)
	}
	return append(removed, "stream "+historyStream), nil
}
