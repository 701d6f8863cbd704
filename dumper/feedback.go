package dumper

import (
	"context"
	"fmt"
	"time"

	"shardcdc/pipeline"
)

// feedback is what the writer has to tell the server. Guarded by Dumper.mu.
type feedback struct {
	reply    bool          // the server asked for a status update
	ask      bool          // we want a keepalive back
	changed  bool          // the confirmed position moved
	interval time.Duration // longest time between two updates
}

// write sends status updates: at once when the server asks or a probe wants an answer, ConfirmDelay after the last for a
// confirmation, and every interval. It is a goroutine of its own, so that a blocked Offer does not silence us.
func (s *session) write(ctx context.Context) error {
	timer := time.NewTimer(0) // the first update goes out at once: it confirms Start, unless that is held
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.d.wakeWriter:
		case <-timer.C:
		}
		now := time.Now()
		msg, wait, err := s.d.nextUpdate(now, last)
		if err != nil {
			return err
		}
		if msg != nil {
			if err := s.send(msg, now); err != nil {
				return err
			}
			last = now
		}
		timer.Reset(wait)
	}
}

func (s *session) send(msg []byte, now time.Time) error {
	if err := s.conn.SetWriteDeadline(now.Add(s.d.opts.SilenceMax)); err != nil {
		return fmt.Errorf("send status update: %w", err)
	}
	if _, err := s.conn.Write(msg); err != nil {
		return fmt.Errorf("send status update: %w", err)
	}
	return nil
}

// nextUpdate returns the update that is due, or nil, and how long to wait for the next.
func (d *Dumper) nextUpdate(now, last time.Time) (msg []byte, wait time.Duration, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.misuse != nil {
		return nil, 0, &FatalError{What: "a position was confirmed that was never offered", Err: d.misuse}
	}
	f := &d.feedback
	if d.busy.IsZero() {
		silent := now.Sub(d.heard)
		if silent > d.opts.SilenceMax {
			return nil, 0, fmt.Errorf("%w for %s: %w", errSilent, silent.Round(time.Millisecond), errWait)
		}
		f.ask = f.ask || silent > d.opts.SilenceMax/4
	}
	since := now.Sub(last)
	due := f.reply || f.ask || f.changed && since >= d.opts.ConfirmDelay || since >= f.interval
	if !due {
		wait = f.interval - since
		if f.changed {
			wait = min(wait, d.opts.ConfirmDelay-since)
		}
		return nil, wait, nil
	}
	write := max(d.status.Received, d.status.Confirmed)
	msg = statusUpdate(write, d.status.Confirmed, pipeline.TimestampOf(now), f.ask)
	f.reply, f.ask, f.changed = false, false, false
	return msg, f.interval, nil
}

// askForKeepalive makes the server say how far it has come.
func (d *Dumper) askForKeepalive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.feedback.ask = true
	signal(d.wakeWriter)
}
