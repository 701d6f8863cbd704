package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause"
)

const (
	copyLook  = 500 * time.Millisecond // time between two looks at a copy
	copyQuiet = 2 * time.Second        // when nobody looks at a terminal, nothing is said before: most copies are done by then
	copyLines = 5 * time.Second        // and this is the time between two lines
)

// copyWait waits for a job and shows how far it is, on standard error.
type copyWait struct {
	bus   *control.Bus
	sub   *control.Subscription
	w     io.Writer
	bars  bool
	drawn int       // lines on the terminal
	next  time.Time // no line before
	said  string
}

func newCopyWait(bus *control.Bus, sub *control.Subscription, w io.Writer) *copyWait {
	return &copyWait{bus: bus, sub: sub, w: w, bars: terminal(w), next: time.Now().Add(copyQuiet)}
}

// awaitCopy returns when a job's rows are on every target; an empty id means the subscription's only job. ctrl-C ends the
// waiting, not the copy.
func awaitCopy(ctx context.Context, cmd *cobra.Command, bus *control.Bus, sub *control.Subscription, id string, asJSON bool) error {
	copies, err := control.OpenCopies(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return err
	}
	if id == "" {
		jobs, err := copies.Jobs(ctx, sub.Name)
		if err != nil || len(jobs) == 0 {
			return err
		}
		id = jobs[0].ID
	}
	w := newCopyWait(bus, sub, cmd.ErrOrStderr())
	job, err := w.ended(ctx, copies, id)
	if err == nil {
		err = w.onTargets(ctx, job)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted; the copy goes on without this command. Try: cdcctl status %s --watch", sub.Name)
	case err != nil || asJSON:
		return err
	}
	w.clear()
	took := ""
	if job.Started != nil && job.Ended != nil {
		took = " in " + seconds(job.Ended.Sub(*job.Started).Seconds())
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "Copied %s%s: consistent from csn %s on.\n", plural(len(job.Tables), "table"), took, job.EndCSN)
	return err
}

// ended waits until nothing more is done for the job.
func (w *copyWait) ended(ctx context.Context, copies *control.Copies, id string) (*control.CopyJob, error) {
	for {
		job, err := copies.Job(ctx, w.sub.Name, id)
		switch {
		case err != nil:
			return nil, err
		case job == nil:
			return nil, fmt.Errorf("the copy of subscription %s is gone: the subscription was dropped", w.sub.Name)
		case job.State == control.CopyDone:
			return job, nil
		case job.State == control.CopyCancelled:
			return nil, fmt.Errorf("the copy was cancelled: its tables were removed from subscription %s", w.sub.Name)
		case job.State.Ended():
			return nil, fmt.Errorf("the copy failed: %s", job.Error)
		}
		if err := w.look(ctx, id); err != nil {
			return nil, err
		}
		if err := pause.For(ctx, copyLook); err != nil {
			return nil, err
		}
	}
}

// look shows how far it is.
func (w *copyWait) look(ctx context.Context, id string) error {
	st, err := control.AskCapture(ctx, w.bus.NC, w.sub.Name)
	switch {
	case errors.Is(err, control.ErrNobody):
		w.say("no node runs subscription "+w.sub.Name+". Try: cdcd node, or cdcd all", "")
	case err != nil:
		return err
	case st.Error != "":
		w.say("subscription "+w.sub.Name+" cannot run: "+oneLine(st.Error), "")
	case st.Copy == nil || st.Copy.Job != id:
		w.say("the copy has not begun yet", "")
	default:
		picture := ""
		if w.bars {
			picture = w.picture(st.Copy)
		}
		w.say("copy of "+w.sub.Name+": "+strings.TrimSpace(copySum(st.Copy))+waiting(st.Copy), picture)
	}
	return nil
}

// picture has bars, and what holds the copy up.
func (w *copyWait) picture(c *control.CopyStatus) string {
	width := terminalWidth()
	picture := copyBody(c, true, width)
	for _, text := range c.Waiting {
		picture += cut("  waits: "+oneLine(text), width) + "\n"
	}
	return picture
}

func waiting(c *control.CopyStatus) string {
	if len(c.Waiting) == 0 {
		return ""
	}
	return "; waits: " + oneLine(strings.Join(c.Waiting, "; "))
}

// onTargets waits until every target has applied the end of the copy.
func (w *copyWait) onTargets(ctx context.Context, job *control.CopyJob) error {
	for _, t := range w.sub.Targets {
		for {
			st, err := control.AskApply(ctx, w.bus.NC, w.sub.Name, t.Name)
			switch {
			case errors.Is(err, control.ErrNobody):
				w.say("the rows are in the stream; nobody applies them on target "+t.Name+". Try: cdcd apply, or cdcd all", "")
			case err != nil:
				return err
			case st.AppliedCSN >= job.EndCSN:
			case st.Error != "":
				w.say("target "+t.Name+": "+oneLine(st.Error), "")
			default:
				w.say(fmt.Sprintf("the rows are in the stream; target %s has applied %.1f %%", t.Name, st.Replay.Percent), "")
			}
			if err == nil && st.AppliedCSN >= job.EndCSN {
				break
			}
			if err := pause.For(ctx, copyLook); err != nil {
				return err
			}
		}
	}
	return nil
}

// say shows a line, or on a terminal the picture if there is one, in place of what was shown before.
func (w *copyWait) say(line, picture string) {
	if !w.bars {
		if now := time.Now(); line != w.said && !now.Before(w.next) {
			fmt.Fprintln(w.w, line)
			w.said, w.next = line, now.Add(copyLines)
		}
		return
	}
	w.clear()
	if picture == "" {
		picture = cut(line, terminalWidth()) + "\n"
	}
	fmt.Fprint(w.w, picture)
	w.drawn = strings.Count(picture, "\n")
}

// clear takes away what was drawn.
func (w *copyWait) clear() {
	if w.drawn > 0 {
		fmt.Fprintf(w.w, "\x1b[%dA\x1b[J", w.drawn)
		w.drawn = 0
	}
}
