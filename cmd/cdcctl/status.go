package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
)

// watchEvery is how often status --watch looks again.
const watchEvery = time.Second

// report is one subscription's status, and its JSON form.
type report struct {
	Subscription *control.Subscription `json:"subscription"`
	// Capture is what the node says that runs it; null: no node does.
	Capture *control.CaptureStatus `json:"capture"`
	// Apply has an entry per target; its state is "no worker" when none answers.
	Apply []control.ApplyStatus `json:"apply"`
}

// noWorker is the state of a target that no apply worker works for.
const noWorker = "no worker"

func statusCommand() *cobra.Command {
	var (
		nats  cli.NATS
		out   output
		watch bool
	)
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show what one or all subscriptions are doing, and what they wait for",
		Long: `Asks the processes that work for a subscription, or for all, and shows their answers: the watermark, what waits and
what for, every shard's positions and lag, every target's. With --output json: an object with subscription, capture
(null when no node runs it) and apply; without NAME an array of them; with --watch one such value after the other.

Exit codes: 0 shown, whatever the state; 1 NATS cannot be reached, or there is no such subscription; 2 called in a
wrong way.`,
		Example: "  cdcctl status\n  cdcctl status bank --watch\n  cdcctl status bank -o json | jq .capture.lag_seconds",
		Args:    cli.MaybeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
				s := &statuses{bus: bus, catalog: catalog, names: args, json: asJSON, w: cmd.OutOrStdout()}
				if watch {
					return s.watch(ctx)
				}
				return s.show(ctx)
			})
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "show again every second, until ctrl-C")
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

type statuses struct {
	bus     *control.Bus
	catalog *control.Catalog
	names   []string // none: all
	json    bool
	w       io.Writer
}

func (s *statuses) watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if !s.json && terminal(s.w) {
			fmt.Fprint(s.w, "\x1b[H\x1b[2J")
		}
		if err := s.show(ctx); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (s *statuses) show(ctx context.Context) error {
	entries, err := s.entries(ctx)
	if err != nil {
		return err
	}
	reports := make([]report, len(entries))
	errs := make([]error, len(entries))
	var wait sync.WaitGroup
	for i, e := range entries {
		wait.Go(func() { reports[i], errs[i] = ask(ctx, s.bus, e.Subscription) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	switch {
	case s.json && len(s.names) > 0:
		return writeJSON(s.w, reports[0])
	case s.json:
		return writeJSON(s.w, reports)
	case len(reports) == 0:
		_, err := fmt.Fprintln(s.w, "There is no subscription. Try: cdcctl create-subscription --help")
		return err
	}
	for i, r := range reports {
		if i > 0 {
			fmt.Fprintln(s.w)
		}
		if err := r.print(s.w, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

func (s *statuses) entries(ctx context.Context) ([]control.Entry, error) {
	if len(s.names) == 0 {
		return s.catalog.List(ctx)
	}
	e, err := s.catalog.Get(ctx, s.names[0])
	if err != nil {
		return nil, err
	}
	return []control.Entry{e}, nil
}

// ask puts a report together. That nobody answers is an answer.
func ask(ctx context.Context, bus *control.Bus, sub *control.Subscription) (report, error) {
	r := report{Subscription: shown(sub), Apply: make([]control.ApplyStatus, len(sub.Targets))}
	errs := make([]error, 1+len(sub.Targets))
	var wait sync.WaitGroup
	wait.Go(func() {
		st, err := control.AskCapture(ctx, bus.NC, sub.Name)
		if err == nil {
			r.Capture = &st
		} else if !errors.Is(err, control.ErrNobody) {
			errs[0] = fmt.Errorf("ask for the status of %s: %w", sub.Name, err)
		}
	})
	for i, t := range sub.Targets {
		wait.Go(func() {
			var err error
			r.Apply[i], err = control.AskApply(ctx, bus.NC, sub.Name, t.Name)
			if errors.Is(err, control.ErrNobody) {
				r.Apply[i] = control.ApplyStatus{Subscription: sub.Name, Target: t.Name, State: noWorker}
			} else if err != nil {
				errs[1+i] = fmt.Errorf("ask for the status of %s on target %s: %w", sub.Name, t.Name, err)
				return
			}
			r.Apply[i].Skipped, errs[1+i] = skipped(ctx, bus, sub.Name, t.Name)
		})
	}
	wait.Wait()
	return r, errors.Join(errs...)
}

// skipped counts what a target was told to leave out, ever.
func skipped(ctx context.Context, bus *control.Bus, subscription, target string) (int, error) {
	skips, err := control.OpenSkips(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return 0, err
	}
	all, err := skips.List(ctx, subscription, target)
	return len(all), err
}

func (r *report) print(w io.Writer, now time.Time) error {
	sub, c := r.Subscription, r.Capture
	switch {
	case sub.Imported && sub.State == control.Active:
		fmt.Fprintf(w, "%s: imported; nothing captures it here. Try: cdcctl import, with the next file\n", sub.Name)
	case c == nil && sub.State == control.Active:
		fmt.Fprintf(w, "%s: no node runs it. Try: cdcd node, or cdcd all; one that stands by (cdcctl nodes) takes over when a dead node's lease has ended, after seconds\n", sub.Name)
	case c == nil:
		fmt.Fprintf(w, "%s: %s%s\n", sub.Name, sub.State, map[control.State]string{
			control.Paused: ". Try: cdcctl resume " + sub.Name, control.Dropping: ". Try: cdcctl drop-subscription " + sub.Name + ", which goes on",
		}[sub.State])
	default:
		if err := printCapture(w, sub, c, now); err != nil {
			return err
		}
	}
	if len(r.Apply) == 0 {
		return nil
	}
	return printApply(w, r.Apply, sub.State)
}

func printCapture(w io.Writer, sub *control.Subscription, c *control.CaptureStatus, now time.Time) error {
	fmt.Fprintf(w, "%s: %s on node %s for %s, format %s, acknowledgements %s\n", sub.Name, c.State, c.Node, seconds(now.Sub(c.Since).Seconds()), sub.Format, c.Durability)
	if c.Error != "" {
		fmt.Fprintln(w, "  error      ", oneLine(c.Error))
	}
	if c.Stalled != "" {
		fmt.Fprintln(w, "  stalled    ", c.Stalled)
	}
	fmt.Fprintf(w, "  watermark   csn %s, %s\n", c.Watermark, csnAge(c.Watermark.Time().Time(), uint64(c.Watermark), now))
	fmt.Fprintf(w, "  published   csn %s, stream sequence %d; %d transactions (%d distributed), %d changes; lag %s\n",
		c.PublishedCSN, c.StreamSeq, c.Transactions, c.Distributed, c.Changes, seconds(c.LagSeconds))
	fmt.Fprintf(w, "  pending     %d wait to be published, %d undecided, %d decided and incomplete; %s held\n",
		c.Waiting, c.Undecided, c.Decided, bytesText(int64(c.BytesHeld)))
	if c.Open > 0 || c.Spilled > 0 {
		fmt.Fprintf(w, "  large       %d transactions are read while they run, %s; %s in files\n", c.Open, bytesText(c.OpenBytes), bytesText(c.Spilled))
	}
	if p := c.InDoubt; p != nil {
		fmt.Fprintf(w, "  in doubt    gid %q on shard %s%s. Try: COMMIT PREPARED or ROLLBACK PREPARED there, once you know which\n", p.GID, p.Shard, age(p, now))
	}
	if p := c.OldestUnfinished; p != nil && (p.Since == nil || now.Sub(*p.Since) > secondPhaseMax) {
		fmt.Fprintf(w, "  unfinished  %d second phases are missing of transactions that are committed; the oldest is gid %q on shard %s%s. Try: COMMIT PREPARED there\n",
			c.Unfinished, p.GID, p.Shard, age(p, now))
	}
	for _, text := range waitsFor(c) {
		fmt.Fprintln(w, "  waits for  ", text)
	}
	if text := catchupText(&c.Catchup); text != "" {
		fmt.Fprintln(w, "  catching up", text)
	}
	if c.Copy != nil {
		if err := printCopy(w, c.Copy, terminal(w), now); err != nil {
			return err
		}
	}
	if len(c.NewTables) > 0 && !sub.FollowNewTables {
		fmt.Fprintf(w, "  new tables  %s: not captured. Try: cdcctl add-table %s %s\n", firstOf(c.NewTables, newTablesMax), sub.Name, c.NewTables[0])
	}
	return printShards(w, c.Shards)
}

// newTablesMax is how many new tables status names.
const newTablesMax = 10

func firstOf(names []string, limit int) string {
	if more := len(names) - limit; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), more)
	}
	return strings.Join(names, ", ")
}

// catchupText is empty when there is nothing to catch up with.
func catchupText(c *control.Catchup) string {
	if c.Type == "" || c.Percent >= 100 {
		return ""
	}
	return fmt.Sprintf("%s, %.1f %%, %s left", c.Type, c.Percent, c.RemainingTime)
}

// waitsFor is what the others wait for. Of a shard that is not connected this is said first: nothing comes before it is.
func waitsFor(c *control.CaptureStatus) []string {
	texts := slices.Clone(c.WaitsFor)
	for _, s := range c.Shards {
		if s.State == "streaming" || s.State == "waiting for room" {
			continue
		}
		for i, text := range texts {
			if what, found := strings.CutPrefix(text, "shard "+s.Name+": "); found {
				texts[i] = fmt.Sprintf("shard %s, which is not connected (%s); then %s", s.Name, s.State, what)
			}
		}
	}
	return texts
}

// secondPhaseMax is how long a second phase may take before status mentions it.
const secondPhaseMax = 5 * time.Second

func age(p *control.Prepared, now time.Time) string {
	if p.Since == nil {
		return ""
	}
	return fmt.Sprintf(", prepared %s ago", seconds(now.Sub(*p.Since).Seconds()))
}

func csnAge(at time.Time, csn uint64, now time.Time) string {
	if csn == 0 {
		return "nothing yet"
	}
	return fmt.Sprintf("%s, %s ago", at.UTC().Format("2006-01-02 15:04:05.000Z"), seconds(now.Sub(at).Seconds()))
}

func printShards(w io.Writer, shards []control.ShardStatus) error {
	if len(shards) == 0 {
		return nil
	}
	lines := []string{cells("  SHARD", "STATE", "RECEIVED", "MERGED", "PUBLISHED", "CONFIRMED", "LAG", "LAG TIME", "RETAINED WAL", "CLOCK")}
	for _, s := range shards {
		retained := bytesText(s.RetainedWAL)
		if s.WALStatus != "" && s.WALStatus != "reserved" {
			retained += " (" + s.WALStatus + ")"
		}
		lines = append(lines, cells("  "+s.Name, s.State, s.Received, s.Merged, s.Published, s.Confirmed,
			bytesText(s.LagBytes), seconds(s.LagSeconds), retained, fmt.Sprintf("%+.3fs", s.ClockOffset)))
	}
	if err := table(w, lines...); err != nil {
		return err
	}
	for _, s := range shards {
		if s.Error != "" {
			fmt.Fprintf(w, "  shard %s: %s\n", s.Name, oneLine(strings.TrimPrefix(s.Error, "shard "+s.Name+": ")))
		}
		if s.PausedAt != "" {
			fmt.Fprintf(w, "  shard %s stands at %s, %d records behind it\n", s.Name, s.PausedAt, s.Queued)
		}
	}
	return nil
}

// consistency says whether a target is as the shards were at some CSN; empty: no table was ever copied.
func consistency(a *control.ApplyStatus) string {
	switch {
	case len(a.Copying) == 1:
		return "not yet consistent: table " + a.Copying[0] + " is being copied"
	case len(a.Copying) > 1:
		return fmt.Sprintf("not yet consistent: %d tables are being copied (%s)", len(a.Copying), firstOf(a.Copying, newTablesMax))
	case a.ConsistentFrom != 0:
		return fmt.Sprintf("consistent from csn %s on", a.ConsistentFrom)
	}
	return ""
}

// ddlWaiting says what shards have to run that others have.
func ddlWaiting(a *control.ApplyStatus) string {
	if len(a.DDLWaiting) == 0 {
		return ""
	}
	var shards []string
	for _, d := range a.DDLWaiting {
		for _, s := range d.Shards {
			if !slices.Contains(shards, s) {
				shards = append(shards, s)
			}
		}
	}
	slices.Sort(shards)
	waits, them, oldest := "waits", "it", a.DDLWaiting[0]
	if len(a.DDLWaiting) > 1 {
		waits, them = "wait", "them"
	}
	return fmt.Sprintf("%s of DDL %s for shards that have not run %s: %s. The oldest: %s (csn %s; here: %s). All: SELECT * FROM cdc.ddl WHERE NOT complete",
		plural(len(a.DDLWaiting), "statement"), waits, them, strings.Join(shards, ", "), oneLine(oldest.Statement), oldest.CSN, oldest.Here)
}

func printApply(w io.Writer, apply []control.ApplyStatus, state control.State) error {
	lines := []string{cells("  TARGET", "STATE", "NODE", "APPLIED CSN", "SEQUENCE", "LAG", "TRANSACTIONS", "CHANGES")}
	missing := false
	for _, a := range apply {
		missing = missing || a.State == noWorker
		if a.State == noWorker { // nobody says how far it is
			lines = append(lines, cells("  "+a.Target, a.State, "", "", "", "", "", ""))
			continue
		}
		lines = append(lines, cells("  "+a.Target, a.State, a.Node, a.AppliedCSN, a.AppliedSeq, seconds(a.LagSeconds), a.Transactions, a.Changes))
	}
	if err := table(w, lines...); err != nil {
		return err
	}
	for _, a := range apply {
		if a.Error != "" {
			fmt.Fprintf(w, "  target %s: %s\n", a.Target, oneLine(a.Error))
		}
		if text := consistency(&a); text != "" {
			fmt.Fprintf(w, "  target %s: %s\n", a.Target, text)
		}
		if text := ddlWaiting(&a); text != "" {
			fmt.Fprintf(w, "  target %s: %s\n", a.Target, text)
		}
		if a.Replay.End > 0 && a.Replay.Percent < 100 {
			fmt.Fprintf(w, "  target %s: %.1f %% of what the stream held is replayed, sequence %d of %d\n", a.Target, a.Replay.Percent, a.Replay.Current, a.Replay.End)
		}
		if a.Waiting != "" {
			fmt.Fprintf(w, "  target %s: %s\n", a.Target, a.Waiting)
		}
		if l := a.Large; l != nil {
			what := "sent"
			if l.Spooling {
				what = "read into files"
			}
			fmt.Fprintf(w, "  target %s: a large transaction, csn %s: %d of %d rows %s, %s of %s\n", a.Target, l.CSN, l.Rows, l.RowsTotal, what, bytesText(l.Bytes), bytesText(l.BytesTotal))
		}
		if b := a.Blocked; b != nil && b.CSN != 0 {
			fmt.Fprintf(w, "  target %s: blocked at %s. Try: mend it there; or leave the transaction out: cdcctl skip %s --target %s --csn %s --reason …\n", a.Target, b, a.Subscription, a.Target, b.CSN)
		}
		if a.Skipped > 0 {
			fmt.Fprintf(w, "  target %s: %d skipped, so it differs from the shards there until somebody repairs it. See: cdcctl history %s, cdcctl verify %s, and cdc.skipped there\n", a.Target, a.Skipped, a.Subscription, a.Subscription)
		}
	}
	if missing && state == control.Active {
		fmt.Fprintln(w, "  No apply worker answers. Try: cdcd apply, or cdcd all; one that stands by (cdcctl nodes) takes over when a dead worker's lease has ended, after seconds")
	}
	return nil
}
