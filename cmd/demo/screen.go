package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/control"
)

// A screen shows steps, and one line of progress that is written anew each second where the output is a terminal.
type screen struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	open     bool // the last line is progress, without an end
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok {
		if info, err := f.Stat(); err == nil {
			s.terminal = info.Mode()&os.ModeCharDevice != 0
		}
	}
	return s
}

// line writes a line.
func (s *screen) line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finish()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// step writes what was done.
func (s *screen) step(what, format string, args ...any) {
	s.line("%-13s %s", what, fmt.Sprintf(format, args...))
}

// progress writes over the last progress.
func (s *screen) progress(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.terminal {
		fmt.Fprintln(s.out, text)
		return
	}
	fmt.Fprintf(s.out, "\r\x1b[K%s", text)
	s.open = true
}

// end leaves the last progress as it is.
func (s *screen) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finish()
}

func (s *screen) finish() {
	if s.open {
		fmt.Fprintln(s.out)
		s.open = false
	}
}

// showProgress writes a line each second until ctx ends.
func (d *demo) showProgress(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	began := time.Now()
	var before bank.Stats
	var appliedBefore uint64
	last := began
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := time.Now()
		seconds := now.Sub(last).Seconds()
		stats := d.bank.Stats()
		capture, captureErr := control.AskCapture(ctx, d.site.bus.NC, subscription)
		replay, replayErr := control.AskApply(ctx, d.site.bus.NC, subscription, target)
		if ctx.Err() != nil {
			return nil
		}
		if replayErr != nil {
			replay.Transactions = appliedBefore
		}
		d.screen.progress(fmt.Sprintf("%3.0fs  bank %4.0f tx/s (%3.0f across shards)  applied %4.0f tx/s  lag %6s  in doubt %d  snapshots %d  %s",
			now.Sub(began).Seconds(), float64(stats.Transactions-before.Transactions)/seconds, float64(stats.Distributed-before.Distributed)/seconds,
			float64(replay.Transactions-min(appliedBefore, replay.Transactions))/seconds, round(d.bank.Meter().Lag(time.Now())), stats.InDoubt, d.watch.Snapshots(),
			doing(capture, captureErr)))
		before, appliedBefore, last = stats, replay.Transactions, now
	}
}

// doing says what the node is doing.
func doing(st control.CaptureStatus, err error) string {
	switch {
	case err != nil:
		return "no node: the dead one's lease has not ended yet"
	case st.State != "running":
		return "node " + st.State + " " + st.Error
	case st.Stalled != "":
		return "node cannot publish: " + st.Stalled
	}
	return "watermark " + st.Watermark.Time().Time().Local().Format("15:04:05.000")
}

// round keeps three digits or so.
func round(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > 10*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}
