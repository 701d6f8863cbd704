package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// StreamConfig says how a subscription's stream is made.
type StreamConfig struct {
	Subscription string
	Incarnation  string
	Replicas     int   // 1 with one server; 3 in a cluster
	BytesMax     int64 // the stream refuses more; 0: no limit of its own
	// First is the sequence of the first message: of a stream that is imported, that of its range; 0: 1.
	First pipeline.Seq
}

// CreateStream makes the stream of a new subscription. A stream that exists already is an error.
func CreateStream(ctx context.Context, js natsjs.JetStream, c StreamConfig) error {
	name := wire.StreamName(c.Subscription)
	_, err := js.CreateStream(ctx, natsjs.StreamConfig{
		Name:               name,
		Description:        "transactions of subscription " + c.Subscription,
		Subjects:           []string{wire.AllSubjects(c.Subscription)},
		Retention:          natsjs.LimitsPolicy,
		Discard:            natsjs.DiscardNew,
		MaxBytes:           maxBytes(c.BytesMax),
		Storage:            natsjs.FileStorage,
		Replicas:           max(c.Replicas, 1),
		FirstSeq:           uint64(c.First),
		Duplicates:         30 * time.Second, // not relied on; the shorter the less memory
		DenyDelete:         true,
		AllowAtomicPublish: true,
		Metadata:           map[string]string{wire.MetadataIncarnation: c.Incarnation},
	})
	if errors.Is(err, natsjs.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("create stream %s: it exists already, left by another subscription of this name. Try: cdcctl drop-subscription %s", name, c.Subscription)
	}
	if err != nil {
		return fmt.Errorf("create stream %s: %w", name, err)
	}
	return nil
}

// maxBytes is a limit as JetStream writes it.
func maxBytes(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// SetBytesMax changes how large the stream may become; 0: no limit of its own. Its writer, should it wait for room, goes
// on with its next try. A limit below what the stream holds removes nothing: the stream discards what is new.
func SetBytesMax(ctx context.Context, js natsjs.JetStream, subscription, incarnation string, n int64) error {
	s, err := openStream(ctx, js, subscription, incarnation)
	if err != nil {
		return err
	}
	c := s.CachedInfo().Config
	c.MaxBytes = maxBytes(n)
	_, err = js.UpdateStream(ctx, c)
	var api *natsjs.APIError
	if errors.As(err, &api) && int(api.ErrorCode) == codeNoStorage {
		return fmt.Errorf("change the limit of stream %s: %w. Try: less, which nats account info tells; or give the NATS server more", c.Name, err)
	}
	if err != nil {
		return fmt.Errorf("change the limit of stream %s: %w", c.Name, err)
	}
	return nil
}

// DeleteStream removes the subscription's stream; one that does not exist is fine. It says whether it did.
func DeleteStream(ctx context.Context, js natsjs.JetStream, subscription string) (bool, error) {
	err := js.DeleteStream(ctx, wire.StreamName(subscription))
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("delete stream %s: %w", wire.StreamName(subscription), err)
	}
	return true, nil
}

// openStream finds the stream and checks that it is the one the subscription was made with, and that it is as
// durable as it was made.
func openStream(ctx context.Context, js natsjs.JetStream, subscription, incarnation string) (natsjs.Stream, error) {
	name := wire.StreamName(subscription)
	s, err := js.Stream(ctx, name)
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		return nil, &FatalError{What: fmt.Sprintf("stream %s is gone", name), Try: "restore it, or cdcctl drop-subscription " + subscription + " and create it again"}
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", name, err)
	}
	c := s.CachedInfo().Config
	if got := c.Metadata[wire.MetadataIncarnation]; got != incarnation {
		return nil, &FatalError{
			What: fmt.Sprintf("stream %s is another one than subscription %s was made with (incarnation %q, want %q)", name, subscription, got, incarnation),
			Try:  "restore the stream, or cdcctl drop-subscription " + subscription + " and create it again",
		}
	}
	switch {
	case c.Storage != natsjs.FileStorage:
		err = errors.New("it is kept in memory")
	case c.PersistMode != natsjs.DefaultPersistMode:
		err = errors.New("its persist mode is async: an acknowledged message may be lost")
	case c.Discard != natsjs.DiscardNew:
		err = errors.New("it discards old messages when it is full")
	case !c.AllowAtomicPublish:
		err = errors.New("it does not allow atomic batches")
	}
	if err != nil {
		return nil, &FatalError{What: fmt.Sprintf("stream %s was changed: %v", name, err), Try: "nats stream edit " + name + ", back to file storage, default persist mode, discard new, atomic publish"}
	}
	return s, nil
}

// FatalError stops a publisher: going on would break a promise.
type FatalError struct{ What, Try string }

func (e *FatalError) Error() string { return e.What + ". Try: " + e.Try }

// ErrFenced says that another node has taken the subscription over.
var ErrFenced = errors.New("another node has taken the stream over")
