package archive

import (
	"context"
	"errors"
	"fmt"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/reading"
	"shardcdc/pipeline/wire"
)

// Range of an export. The zero Range is everything that the stream has, in whole units.
type Range struct {
	From pipeline.CSN // begin with the unit that has the first transaction of this CSN or a higher one
	To   pipeline.CSN // end with the unit that has the last transaction of this CSN or a lower one; 0: the stream's end
}

// ErrNothing says that the stream has no whole unit in the range.
var ErrNothing = errors.New("the stream has nothing in this range")

// Export writes a range of a stream into a new file. What is published meanwhile is not in it. With an error there is no file.
func Export(ctx context.Context, source reading.Source, sub *control.Subscription, path string, r Range) (Head, End, error) {
	e := &export{source: source, path: path, upTo: r.To}
	e.head = Head{Subscription: portable(sub), Exported: time.Now().UTC().Truncate(time.Millisecond)}
	end, err := e.run(ctx, r.From)
	if err != nil {
		return e.head, End{}, fmt.Errorf("export %s: %w", sub.Name, err)
	}
	return e.head, end, nil
}

// portable is the entry as it may leave the house: without where things are and how they are reached.
func portable(sub *control.Subscription) *control.Subscription {
	c := *sub
	c.Shards = nil
	for _, s := range sub.Shards {
		c.Shards = append(c.Shards, control.Shard{Name: s.Name, SystemID: s.SystemID, Timeline: s.Timeline, Start: s.Start})
	}
	c.Targets, c.State, c.Imported, c.Retain = nil, control.Active, true, 0
	return &c
}

type export struct {
	source reading.Source
	path   string
	upTo   pipeline.CSN
	head   Head

	last           pipeline.Seq // of the last unit's end
	csn, watermark pipeline.CSN
}

func (e *export) run(ctx context.Context, from pipeline.CSN) (end End, err error) {
	begin, err := reading.First(ctx, e.source, reading.Position{CSN: from})
	if err != nil {
		return end, err
	}
	if e.last, err = lastEnd(ctx, e.source); err != nil {
		return end, err
	}
	if e.head.First, err = firstWhole(ctx, e.source, begin, e.last); err != nil {
		return end, err
	}
	w, err := Create(e.path, e.head)
	if err != nil {
		return end, err
	}
	if err := e.copy(ctx, w); err != nil {
		return end, errors.Join(err, w.Abort())
	}
	return w.Finish(e.csn, e.watermark)
}

// copy copies up to the end of the unit that reaches the CSN, or of the last one.
func (e *export) copy(ctx context.Context, w *Writer) error {
	return e.source.Read(ctx, e.head.First, false, func(m *reading.Message) error {
		if err := w.Add(m); err != nil {
			return err
		}
		if !m.Ends() {
			return nil
		}
		if err := e.note(m); err != nil {
			return err
		}
		if m.Seq >= e.last || e.upTo > 0 && max(e.csn, e.watermark) >= e.upTo {
			return reading.ErrStop
		}
		return nil
	})
}

// note remembers what a unit's end says.
func (e *export) note(m *reading.Message) (err error) {
	if e.csn, err = csnHeader(m, wire.HeaderCSN); err != nil {
		return err
	}
	e.watermark, err = csnHeader(m, wire.HeaderWatermark)
	return err
}

func csnHeader(m *reading.Message, name string) (pipeline.CSN, error) {
	text := m.Header.Get(name)
	if text == "" {
		return 0, nil
	}
	csn, err := pipeline.ParseCSN(text)
	if err != nil {
		return 0, fmt.Errorf("stream sequence %d: header %s: %w", m.Seq, name, err)
	}
	return csn, nil
}

// lastEnd is the last message that ends a unit. Behind it may stand epochs, and a unit that is being written.
func lastEnd(ctx context.Context, s reading.Source) (pipeline.Seq, error) {
	first, last := s.Borders()
	for seq := last; seq >= first && seq > 0; seq-- {
		m, err := s.Get(ctx, seq)
		if errors.Is(err, reading.ErrGone) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if m.Ends() {
			return seq, nil
		}
		before, inUnit, err := m.UnitBefore()
		if err != nil {
			return 0, err
		}
		if inUnit {
			if before < first {
				break
			}
			return before, nil
		}
	}
	return 0, ErrNothing
}

// firstWhole is the first place from begin on where a unit begins and every message from there to its end is there. A stream
// whose beginning was removed begins anywhere, and may have epochs of long ago in front.
func firstWhole(ctx context.Context, s reading.Source, begin, last pipeline.Seq) (pipeline.Seq, error) {
	found, next := pipeline.Seq(0), begin
	known := begin == 1
	if begin > last {
		return 0, ErrNothing
	}
	err := s.Read(ctx, begin, false, func(m *reading.Message) error {
		if m.Seq != next {
			known = false
		}
		next = m.Seq + 1
		before, inUnit, err := m.UnitBefore()
		switch {
		case err != nil:
			return err
		case known && found == 0:
			found = m.Seq
		case !known && (!inUnit || before+1 == m.Seq):
			known, found = true, m.Seq
		}
		switch {
		case m.Seq > last:
			found = 0
			return reading.ErrStop
		case m.Ends() && known:
			return reading.ErrStop
		case m.Ends():
			known, found = true, 0
		}
		return nil
	})
	if err == nil && (found == 0 || found > last) {
		err = ErrNothing
	}
	return found, err
}
