package apply

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// checkStream compares the stream with the progress.
func (r *run) checkStream(ctx context.Context) error {
	info, err := r.cfg.Source.Describe(ctx)
	if errors.Is(err, ErrNoStream) && r.progress.StreamID != "" {
		return &Fatal{
			Problem: fmt.Sprintf("%v, but the target is at %s of it", err, r.progress), Try: startOver,
		}
	}
	if err != nil {
		return fmt.Errorf("look at the stream: %w", err)
	}
	r.stream = info
	r.update(func(s *Status) { s.StreamSeq = info.Last })
	switch p := r.progress; {
	case p.StreamID == "":
		r.progress.StreamID = info.ID
	case p.StreamID != info.ID:
		return &Fatal{
			Problem: fmt.Sprintf("the stream is another one (%s) than the target was fed from (%s, at %s): its sequence numbers mean nothing here",
				info.ID, p.StreamID, p), Try: startOver + "; or name a target that nothing was replayed on (of files: another folder)",
		}
	}
	if p := r.progress; info.Last < p.Seq {
		return &Fatal{
			Problem: fmt.Sprintf("the stream ends at sequence %d, but the target is at %s: the stream lost its end", info.Last, p), Try: startOver,
		}
	}
	if r.progress.Seq+1 < info.First {
		return &Fatal{
			Problem: fmt.Sprintf("the stream begins at sequence %d, but the target needs %d: what is between was purged", info.First, r.progress.Seq+1),
			Try:     startOver,
		}
	}
	return r.checkStamp(ctx)
}

// checkStamp compares the message that the progress stands at with the one that the stream holds under its number. A
// stream that was set back, and then written to again, has another one there.
func (r *run) checkStamp(ctx context.Context) error {
	p := r.progress
	if p.Stamp == 0 {
		return nil
	}
	stamp, err := r.cfg.Source.Stamp(ctx, p.Seq)
	if err != nil {
		return fmt.Errorf("look at the stream: %w", err)
	}
	if stamp == 0 || stamp == p.Stamp {
		return nil // 0: purged, and the order of CSNs has to do
	}
	return &Fatal{
		Problem: fmt.Sprintf("the stream was set back: the target is at %s, a message of %s, but the stream's message %d is of %s",
			p, stampText(p.Stamp), p.Seq, stampText(stamp)), Try: startOver,
	}
}

func stampText(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

const startOver = "restore the stream; or copy the data anew (drop and create the subscription), because the target misses transactions that this stream no longer holds"
