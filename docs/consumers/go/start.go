package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// position is a place between two units.
type position struct {
	csn string // of the last transaction before; "0": there is none
	seq uint64 // of the message that ended its unit
}

// behindCSN is where a consumer begins whose data has everything up to a CSN, from a dump say: in front of the unit with the
// first transaction behind it. Other transactions of that unit may be at or below the CSN; they have to be passed over.
func behindCSN(ctx context.Context, s jetstream.Stream, subject string, csn uint64) (position, error) {
	info, err := s.Info(ctx)
	if err != nil {
		return position{}, err
	}
	last, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return position{csn: "0"}, nil // no transaction yet
	}
	if err != nil {
		return position{}, err
	}
	// The first message of a transaction behind the CSN is at or behind low, and in front of or at high, if there is one.
	found := last
	for low, high := info.State.FirstSeq, last.Sequence; low <= high; {
		middle := low + (high-low)/2
		m, err := s.GetMsg(ctx, middle, jetstream.WithGetMsgSubject(subject)) // the first one at or behind middle
		if err != nil {
			return position{}, err
		}
		at, err := strconv.ParseUint(m.Header.Get("Cdc-Csn"), 10, 64)
		if err != nil {
			return position{}, fmt.Errorf("message %d: Cdc-Csn: %w", m.Sequence, err)
		}
		if at > csn {
			found, high = m, middle-1
		} else {
			low = m.Sequence + 1
		}
	}
	return unitOf(ctx, s, found)
}

// atTime is where a consumer begins that wants what was stored since a time: in front of the unit that was the first one then.
func atTime(ctx context.Context, js jetstream.JetStream, s jetstream.Stream, subject string, t time.Time) (position, error) {
	first, err := js.OrderedConsumer(ctx, s.CachedInfo().Config.Name, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject}, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &t,
	})
	if err != nil {
		return position{}, err
	}
	m, err := first.Next() // waits for some seconds, if nothing was stored since then
	if err != nil {
		return position{}, fmt.Errorf("the first transaction since %s: %w", t, err)
	}
	at, err := m.Metadata()
	if err != nil {
		return position{}, err
	}
	raw, err := s.GetMsg(ctx, at.Sequence.Stream)
	if err != nil {
		return position{}, err
	}
	return unitOf(ctx, s, raw)
}

// unitOf is the place in front of the unit that a message is part of.
func unitOf(ctx context.Context, s jetstream.Stream, m *jetstream.RawStreamMsg) (position, error) {
	seq, err := strconv.ParseUint(m.Header.Get("Cdc-Unit"), 10, 64)
	if err != nil || seq == 0 {
		return position{csn: "0"}, err
	}
	before, err := s.GetMsg(ctx, seq)
	if err != nil {
		return position{}, fmt.Errorf("message %d, in front of the unit: %w. The stream begins later: begin with a copy", seq, err)
	}
	return position{csn: before.Header.Get("Cdc-Csn"), seq: seq}, nil
}
