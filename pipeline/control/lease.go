package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const leaseBucket = "CDC_LEASES"

// Leases gives out leases: one owner at a time per key.
type Leases struct {
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	stream jetstream.Stream // behind kv
	ttl    time.Duration
	// history tells who held a lease that nobody saw expire.
	history *History

	mu   sync.Mutex
	seen map[string]Held // by key: the last time that somebody else was seen to hold it
}

// CaptureLease is the key of the lease to capture a subscription.
func CaptureLease(subscription string) string { return "capture." + subscription }

// ApplyLease is the key of the lease to replay a subscription on a target.
func ApplyLease(subscription, target string) string { return "apply." + subscription + "." + target }

// splitLease is what a key is made of; target is empty for a capture.
func splitLease(key string) (subscription, target string) {
	_, rest, _ := strings.Cut(key, ".")
	subscription, target, _ = strings.Cut(rest, ".")
	return subscription, target
}

// Owner is who holds a lease, and how it came to it.
type Owner struct {
	Node        string    `json:"node"`
	Since       time.Time `json:"since"`
	Incarnation string    `json:"incarnation,omitempty"` // of the subscription: what came before another one is not this one's
	// Acquire fills these in.
	TTL  Duration `json:"ttl,omitempty"`  // it expires when it is not renewed for so long
	From string   `json:"from,omitempty"` // who held it before; empty: nobody did
	Why  string   `json:"why,omitempty"`  // why it came to Node
}

// Held is a lease that somebody holds.
type Held struct {
	Key          string `json:"key"`
	Subscription string `json:"subscription"`
	Target       string `json:"target,omitempty"` // empty: the lease is to capture
	Owner
	Renewed time.Time `json:"renewed"` // the last time, by the clock of the NATS server
}

// OpenLeases opens the leases and makes their bucket if it is not there. A lease that is not renewed ends
// after ttl, at least one second.
func OpenLeases(ctx context.Context, js jetstream.JetStream, replicas int, ttl time.Duration) (*Leases, error) {
	if ttl < time.Second {
		return nil, fmt.Errorf("lease time %s is too short, at least 1s", ttl)
	}
	// History must be 1, or the server raises the time to live of keys to that of their markers.
	kv, err := openBucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: leaseBucket, Description: "leases of shardcdc", History: 1, Replicas: max(replicas, 1), LimitMarkerTTL: time.Minute,
	})
	var stream jetstream.Stream
	if err == nil {
		stream, err = js.Stream(ctx, "KV_"+leaseBucket)
	}
	if err != nil {
		return nil, fmt.Errorf("open the leases: %w", err)
	}
	history, err := OpenHistory(ctx, js, replicas)
	if err != nil {
		return nil, err
	}
	return &Leases{js: js, kv: kv, stream: stream, ttl: ttl, history: history, seen: map[string]Held{}}, nil
}

// Holder says who holds the lease of a key; ok is false when nobody does.
func (l *Leases) Holder(ctx context.Context, key string) (o Owner, ok bool, err error) {
	last, err := l.read(ctx, key)
	return last.held.Owner, last.state == leaseHeld, err
}

// List says who holds which lease, by key.
func (l *Leases) List(ctx context.Context) ([]Held, error) {
	keys, err := keysOf(ctx, l.js, leaseBucket, ">")
	if err != nil {
		return nil, fmt.Errorf("list the leases: %w", err)
	}
	all := []Held{}
	for _, key := range keys {
		last, err := l.read(ctx, key)
		if err != nil {
			return nil, err
		}
		if last.state == leaseHeld { // else it ended between the two reads
			all = append(all, last.held)
		}
	}
	return all, nil
}

// Lease is held by this process until it is released, or until it could not be renewed in time.
type Lease struct {
	// Context ends when the lease does.
	Context context.Context
	// Owner says how it came to this process.
	Owner Owner

	cancel  context.CancelCauseFunc
	handing chan struct{} // closed when the holder has finished
	done    sync.WaitGroup
	leases  *Leases
	key     string
	value   []byte
	rev     uint64
}

// ErrLeaseLost is the cause of a Lease's Context when it could not be renewed in time.
var ErrLeaseLost = errors.New("the lease was lost")

// Acquire takes the lease of a key and renews it; nil without an error means that somebody else holds it.
func (l *Leases) Acquire(ctx context.Context, key string, o Owner) (*Lease, error) {
	last, err := l.read(ctx, key)
	if err != nil {
		return nil, err
	}
	if last.state == leaseHeld {
		l.mu.Lock()
		l.seen[key] = last.held
		l.mu.Unlock()
		return nil, nil
	}
	o.TTL = Duration(l.ttl)
	o.From, o.Why = l.story(ctx, key, last, o.Incarnation)
	ls := &Lease{leases: l, key: key, rev: last.rev, Owner: o, handing: make(chan struct{})}
	if ls.value, err = json.Marshal(o); err != nil {
		return nil, err
	}
	// It is stored only if nothing happened since last was read, so the story is true.
	if err := ls.write(ctx); moved(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("acquire lease %s: %w", key, err)
	}
	l.mu.Lock()
	delete(l.seen, key)
	l.mu.Unlock()
	ls.Context, ls.cancel = context.WithCancelCause(ctx)
	ls.done.Add(1)
	go ls.renew()
	return ls, nil
}

// finishMax is how long a holder that was told to stop keeps the lease while it finishes. One that hangs then loses it.
const finishMax = 10 * time.Second

// renew extends the lease at a third of its time, and gives it up when two thirds have passed without success:
// before anyone else can have it.
func (ls *Lease) renew() {
	defer ls.done.Done()
	ttl := ls.leases.ttl
	tick := time.NewTicker(ttl / 3)
	defer tick.Stop()
	good, told := time.Now(), time.Time{}
	for {
		select {
		case <-tick.C:
		case <-ls.handing:
			return
		}
		if ls.Context.Err() != nil && told.IsZero() {
			told = time.Now()
		}
		if !told.IsZero() && time.Since(told) > finishMax {
			return
		}
		started := time.Now()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ls.Context), ttl/3)
		err := ls.extend(ctx)
		cancel()
		if err == nil {
			good = started
			continue
		}
		if moved(err) || time.Since(good) > ttl*2/3 {
			ls.cancel(fmt.Errorf("%w: %w", ErrLeaseLost, err))
			return
		}
	}
}

// extend renews the lease. When the answer to an earlier renewal was lost, the key has moved by our own hand.
func (ls *Lease) extend(ctx context.Context) error {
	err := ls.write(ctx)
	if moved(err) && ls.catchUp(ctx) {
		err = ls.write(ctx)
	}
	return err
}

// moved says that the key is not at the revision that was expected.
func moved(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// catchUp learns the key's revision, if the key still says what we wrote: that is of this Acquire alone.
func (ls *Lease) catchUp(ctx context.Context) bool {
	e, err := ls.leases.kv.Get(ctx, ls.key)
	if err != nil || !bytes.Equal(e.Value(), ls.value) || e.Revision() <= ls.rev {
		return false
	}
	ls.rev = e.Revision()
	return true
}

// write publishes the key anew with its time to live, which kv.Update would drop.
func (ls *Lease) write(ctx context.Context) error {
	msg := nats.NewMsg(leaseSubject(ls.key))
	msg.Data = ls.value
	ack, err := ls.leases.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(ls.rev),
		jetstream.WithMsgTTL(ls.leases.ttl), jetstream.WithRetryAttempts(0))
	if err != nil {
		return err
	}
	ls.rev = ack.Sequence
	return nil
}

// Release ends the lease so that another process can have it at once.
func (ls *Lease) Release(ctx context.Context) error { return ls.HandOver(ctx, "given back") }

// HandOver is Release with the reason, for the process that gets it.
func (ls *Lease) HandOver(ctx context.Context, why string) error {
	lost := ls.Context.Err() != nil && errors.Is(context.Cause(ls.Context), ErrLeaseLost)
	ls.cancel(context.Canceled)
	close(ls.handing)
	ls.done.Wait()
	if lost {
		return nil
	}
	if err := ls.leases.release(ctx, ls.key, ls.rev, handover{Owner: ls.Owner, Why: why}); err != nil {
		return fmt.Errorf("release lease %s: %w", ls.key, err)
	}
	return nil
}
