package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Why a lease moved is known from the last message of its key, which Acquire has read and nothing followed:
//
//	none       nobody ever held it, or it expired so long ago that the server forgot it; the history may know who it was
//	owner      somebody holds it
//	handover   its owner gave it back, and said why
//	marker     the server removed it, because it was not renewed
//	deletion   somebody removed it by hand
type leaseState int

const (
	leaseFree leaseState = iota
	leaseHeld
	leaseReleased
	leaseExpired
	leaseRemoved
)

// leaseRecord is the last message of a key.
type leaseRecord struct {
	state    leaseState
	rev      uint64 // 0: there is none
	at       time.Time
	held     Held     // leaseHeld
	handover handover // leaseReleased
}

// handover is what stays of a lease that was given back.
type handover struct {
	Owner
	Why string `json:"released"`
}

const (
	kvOperation = "KV-Operation" // header of a deletion in a bucket
	kvDelete    = "DEL"
)

func (l *Leases) read(ctx context.Context, key string) (leaseRecord, error) {
	m, err := l.stream.GetLastMsgForSubject(ctx, leaseSubject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return leaseRecord{}, nil
	}
	if err != nil {
		return leaseRecord{}, fmt.Errorf("read lease %s: %w", key, err)
	}
	r := leaseRecord{rev: m.Sequence, at: m.Time}
	switch operation, reason := m.Header.Get(kvOperation), m.Header.Get(jetstream.MarkerReasonHeader); {
	case reason == "MaxAge":
		r.state = leaseExpired
	case operation == kvDelete && len(m.Data) > 0:
		r.state = leaseReleased
		err = json.Unmarshal(m.Data, &r.handover)
	case operation != "" || reason != "":
		r.state = leaseRemoved
	default:
		r.state = leaseHeld
		r.held = Held{Key: key, Renewed: m.Time}
		r.held.Subscription, r.held.Target = splitLease(key)
		err = json.Unmarshal(m.Data, &r.held.Owner)
	}
	if err != nil {
		return r, fmt.Errorf("lease %s: %w", key, err)
	}
	return r, nil
}

func leaseSubject(key string) string { return "$KV." + leaseBucket + "." + key }

// release deletes the key as kv.Delete does, and leaves word.
func (l *Leases) release(ctx context.Context, key string, rev uint64, h handover) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	msg := nats.NewMsg(leaseSubject(key))
	msg.Header.Set(kvOperation, kvDelete)
	msg.Data = b
	_, err = l.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(rev), jetstream.WithRetryAttempts(0))
	return err
}

const firstStart = "first start"

// historyMax bounds how long a taker asks the history: it is only to tell the story.
const historyMax = time.Second

// story says who held a lease that is free now, and how it became free. Another incarnation of the subscription had
// leases of its own.
func (l *Leases) story(ctx context.Context, key string, last leaseRecord, incarnation string) (from, why string) {
	if last.state == leaseReleased {
		if last.handover.Incarnation != incarnation {
			return "", firstStart
		}
		return last.handover.Node, last.handover.Why
	}
	seen, saw := l.witnessed(key, last)
	saw = saw && seen.Incarnation == incarnation
	from, err := l.remembered(ctx, key, incarnation)
	if saw && (err != nil || from == "" || from == seen.Node) {
		return seen.Node, fmt.Sprintf("lease expired: the holder was not heard for %.1f s", last.at.Sub(seen.Renewed).Seconds())
	}
	switch {
	case err != nil:
		return "", "not known: " + err.Error()
	case from == "":
		return "", firstStart
	case last.state == leaseExpired:
		return from, "lease expired at " + last.at.UTC().Format("15:04:05Z") + ": the holder was not heard any more"
	case last.state == leaseRemoved:
		return from, "the lease was removed by hand"
	}
	return from, "nobody held it for a while"
}

// witnessed is the holder that this process saw until a lease expired. What it saw may be one renewal old, and no more,
// or another one may have held it in between.
func (l *Leases) witnessed(key string, last leaseRecord) (Held, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.seen[key]
	ttl := time.Duration(h.TTL)
	return h, ok && last.state == leaseExpired && last.at.Sub(h.Renewed) <= ttl+ttl/3+time.Second
}

// remembered is the holder that the history names; empty: none.
func (l *Leases) remembered(ctx context.Context, key, incarnation string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, historyMax)
	defer cancel()
	e := Event{Kind: CaptureMoved}
	if e.Subscription, e.Target = splitLease(key); e.Target != "" {
		e.Kind = ApplyMoved
	}
	last, err := l.history.last(ctx, e)
	if err != nil || last == nil || last.Incarnation != incarnation {
		return "", err
	}
	return last.To, nil
}
