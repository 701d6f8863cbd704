package reading

import (
	"context"
	"errors"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// Position is where a reading begins. The zero Position is the stream's beginning; at most one field is set.
type Position struct {
	CSN  pipeline.CSN // the first transaction of this CSN or a higher one
	Seq  pipeline.Seq // the first transaction whose first message is this one or a later one
	Time time.Time    // the first transaction that was stored at this time or later, by the server's clock
	Now  bool         // what is published from now on
}

// Includes says whether a transaction is at the position or behind it. What is read before is passed over.
func (p *Position) Includes(t *Transaction) bool {
	return t.CSN >= p.CSN && t.First >= p.Seq && !t.Stored.Before(p.Time)
}

// First finds the sequence to read from, so that nothing at the position or behind it is missing: the beginning of a unit.
func First(ctx context.Context, s Source, p Position) (pipeline.Seq, error) {
	first, last := s.Borders()
	switch {
	case p.Now:
		return unitStart(ctx, s, last, last+1)
	case p.Seq > 0:
		return unitStart(ctx, s, min(p.Seq, last), max(first, p.Seq))
	case p.CSN > 0:
		// Headers carry rising CSNs, but for what a writer left unfinished: its CSNs may be higher than those that follow.
		// All finished ones in front of it are lower, so what is found never lies behind what is wanted.
		return search(ctx, s, func(m *Message) (known, reached bool, err error) {
			text := m.Header.Get(wire.HeaderCSN)
			if text == "" {
				return false, false, nil
			}
			csn, err := pipeline.ParseCSN(text)
			return true, csn >= p.CSN, err
		})
	case !p.Time.IsZero():
		return search(ctx, s, func(m *Message) (known, reached bool, err error) { return true, !m.Time.Before(p.Time), nil })
	}
	return first, nil
}

// look says whether a message has reached what is wanted; known is false for one that does not tell.
type look func(*Message) (known, reached bool, err error)

// search finds the first message that has reached something, by halves, and returns where its unit begins.
func search(ctx context.Context, s Source, look look) (pipeline.Seq, error) {
	low, last := s.Borders()
	high := last + 1
	for low < high {
		middle := low + (high-low)/2
		at, reached, err := nextKnown(ctx, s, middle, high, look)
		if err != nil {
			return 0, err
		}
		if at < high && !reached {
			low = at + 1
		} else {
			high = middle
		}
	}
	return unitStart(ctx, s, min(low, last), low)
}

// nextKnown is the first message from seq on that tells, below end; end if none does.
func nextKnown(ctx context.Context, s Source, seq, end pipeline.Seq, look look) (at pipeline.Seq, reached bool, err error) {
	for ; seq < end; seq++ {
		m, err := s.Get(ctx, seq)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return 0, false, err
		}
		known, reached, err := look(m)
		if err != nil || known {
			return seq, reached, err
		}
	}
	return end, false, nil
}

// unitStart is where the unit of a message begins, as far as the stream reaches back; instead, if the message belongs to no
// unit, or ends one in front of what is wanted.
func unitStart(ctx context.Context, s Source, seq, instead pipeline.Seq) (pipeline.Seq, error) {
	first, last := s.Borders()
	if first > last || seq < first {
		return max(first, instead), nil
	}
	m, err := s.Get(ctx, seq)
	if errors.Is(err, ErrGone) {
		return max(first, instead), nil
	}
	if err != nil {
		return 0, err
	}
	before, ok, err := m.UnitBefore()
	if err != nil {
		return 0, err
	}
	if !ok || m.Ends() && seq < instead {
		return max(first, instead), nil
	}
	return max(first, before+1), nil
}
