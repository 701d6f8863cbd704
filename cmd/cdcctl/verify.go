package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pattern"
	"shardcdc/pipeline/verify"
)

type verifyFlags struct {
	target   string
	tables   nameList
	watch    bool
	interval time.Duration
	verify.Config
}

func verifyCommand() *cobra.Command {
	var (
		nats  cli.NATS
		out   output
		flags verifyFlags
	)
	cmd := &cobra.Command{
		Use:   "verify NAME",
		Short: "Compare the shards with a target, row by row, while both are live",
		Long: `Compares every published table of all shards together with the target's table of the same name, and says which rows are
missing there, too many or different. Nothing is stopped and nothing is locked: checksums over ranges, computed in the
databases, find the rows that are not equal at first sight; then the stream tells which of them are only on their way.
A row is reported as different only if nothing of it is on its way.

A row that cannot be decided is undecided, with the reason: a prepared transaction that is committed on one shard and in
doubt on another, or a target that stands still. The subscription's node has to run. Each shard gets a logical message
of about 100 bytes per round. The DSNs' roles need SELECT on the tables; with pg_read_all_stats on the shards it is faster
while long transactions run.

--repair writes the source's rows over those that are known to differ, never over undecided ones. It holds the worker back
for a moment, and looks at each row once more meanwhile. Triggers and foreign keys of the target do not fire. How many rows of
which table were written stays in cdcctl history for ever.

With --output json: subscription, target, verdict (equal, differs, undecided), and for each table the counts and the first
rows, each with key, kind (differs, missing, extra, undecided), columns, shards, reason, repair. With --watch one such
text after the other.

Exit codes: 0 everything is equal, or was repaired; 1 something differs or is undecided, or the comparison failed; 2 called in
a wrong way.`,
		Example: `  cdcctl verify bank
  cdcctl verify bank --table public.accounts,public.notes --sample 5
  cdcctl verify bank --repair --dry-run
  cdcctl verify bank --watch --interval 10m`,
		Args: cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			if err := flags.check(); err != nil {
				return err
			}
			return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
				if err := flags.find(ctx, bus, catalog, args[0]); err != nil {
					return err
				}
				return flags.run(ctx, cmd, asJSON)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.target, "target", "", "name of the target; not needed if there is only one")
	f.Var(&flags.tables, "table", "tables or patterns like public.*, with commas between or repeated; - in front excludes; default all")
	f.Float64Var(&flags.Sample, "sample", 100, "percent of the rows to compare, others each time")
	f.IntVar(&flags.Parallel, "parallel", 2, "tables compared at the same time, each with a session on every server")
	f.IntVar(&flags.Rounds, "rounds", 20, "how often a row that changes is looked at before it is undecided")
	f.IntVar(&flags.Keys, "keys", 20, "how many rows of a table are listed one by one; repaired ones all are")
	f.DurationVar(&flags.Timeout, "timeout", time.Minute, "give up when what is committed is not published within this time; a target that stands still is waited for no longer than that, nor than 10s")
	f.BoolVar(&flags.Repair, "repair", false, "write the source's rows over those that differ")
	f.BoolVar(&flags.DryRun, "dry-run", false, "with --repair: only say what it would do")
	f.BoolVar(&flags.watch, "watch", false, "compare again and again until ctrl-C")
	f.DurationVar(&flags.interval, "interval", time.Minute, "with --watch: time from one comparison to the next")
	out.add(f)
	nats.Add(f, cli.DefaultURL)
	return cmd
}

// check finds what is wrong with the flags and can be known without a server.
func (v *verifyFlags) check() error {
	switch {
	case v.Sample <= 0 || v.Sample > 100:
		return cli.Usagef("--sample %v: want more than 0 and at most 100 percent", v.Sample)
	case v.Parallel < 1:
		return cli.Usagef("--parallel %d: want at least 1", v.Parallel)
	case v.Rounds < 1:
		return cli.Usagef("--rounds %d: want at least 1", v.Rounds)
	case v.Keys < 1:
		return cli.Usagef("--keys %d: want at least 1", v.Keys)
	case v.Timeout <= 0 || v.interval <= 0:
		return cli.Usagef("--timeout and --interval must be positive")
	case v.DryRun && !v.Repair:
		return cli.Usagef("--dry-run is for --repair; without it nothing is written anyway")
	}
	var patterns []pattern.Pattern
	including := false
	for _, text := range v.tables {
		p, err := pattern.Parse(text)
		if err != nil {
			return cli.UsageError{Err: err}
		}
		patterns = append(patterns, p)
		including = including || !p.Exclude
	}
	v.Choose = func(schema, table string) bool {
		chosen := !including
		for _, p := range patterns {
			if p.Match(schema, table) {
				if p.Exclude {
					return false
				}
				chosen = true
			}
		}
		return chosen
	}
	return nil
}

// find looks up the subscription and its target.
func (v *verifyFlags) find(ctx context.Context, bus *control.Bus, catalog *control.Catalog, name string) error {
	e, err := catalog.Get(ctx, name)
	if err != nil {
		return err
	}
	if err := e.Captured(); err != nil {
		return err
	}
	if e.State != control.Active {
		return fmt.Errorf("subscription %s is %s, so nothing tells what is on its way. Try: cdcctl resume %s", name, e.State, name)
	}
	v.Bus, v.Subscription = bus, e.Subscription
	var names []string
	for _, t := range e.Targets {
		if t.Name == v.target || v.target == "" && len(e.Targets) == 1 {
			v.Target = t
			return nil
		}
		names = append(names, t.Name)
	}
	switch {
	case len(names) == 0:
		return fmt.Errorf("subscription %s has no target in the catalog, so there is nothing to compare with", name)
	case v.target == "":
		return cli.Usagef("subscription %s has several targets. Try: --target %s", name, strings.Join(names, ", or --target "))
	}
	return cli.Usagef("subscription %s has no target %s. Try: --target %s", name, v.target, strings.Join(names, ", or --target "))
}

// run compares, once or again and again.
func (v *verifyFlags) run(ctx context.Context, cmd *cobra.Command, asJSON bool) error {
	again := time.NewTicker(v.interval)
	defer again.Stop()
	for {
		shown := newVerifyProgress(cmd.ErrOrStderr())
		v.Progress = shown.show
		repaired := map[string]int64{}
		v.Repaired = func(table string, rows int64) { repaired[table] += rows }
		report, err := verify.Run(ctx, v.Config)
		shown.end()
		unrecorded := v.recordRepair(ctx, repaired)
		if err != nil && v.watch && ctx.Err() != nil {
			return unrecorded
		}
		if err != nil {
			return errors.Join(err, unrecorded)
		}
		if asJSON {
			err = writeJSON(cmd.OutOrStdout(), report)
		} else {
			err = printVerified(cmd.OutOrStdout(), report)
		}
		switch {
		case err != nil || unrecorded != nil:
			return errors.Join(err, unrecorded)
		case !v.watch && report.Verdict != verify.Equal:
			return cli.ErrReported
		case !v.watch:
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// recordMax bounds writing into the history when the comparison was interrupted.
const recordMax = 5 * time.Second

// recordRepair writes into the history what was repaired, also when the comparison ended early.
func (v *verifyFlags) recordRepair(ctx context.Context, repaired map[string]int64) error {
	if len(repaired) == 0 {
		return nil
	}
	writing, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordMax)
	defer cancel()
	return record(writing, v.Bus, v.Config.Subscription, control.Event{Kind: control.Repaired, Target: v.Target.Name, Repaired: repaired})
}

func printVerified(w io.Writer, r *verify.Report) error {
	lines := []string{cells("TABLE", "VERDICT", "SOURCE", "TARGET", "DIFFERING", "MISSING", "EXTRA", "UNDECIDED", "REPAIRED")}
	var rows int64
	for _, t := range r.Tables {
		lines = append(lines, cells(t.Schema+"."+t.Table, t.Verdict, t.RowsSource, t.RowsTarget, t.Differing, t.Missing, t.Extra, t.Undecided, t.Repaired))
		rows += max(t.RowsSource, t.RowsTarget)
	}
	if err := table(w, lines...); err != nil {
		return err
	}
	for _, t := range r.Tables {
		if _, err := io.WriteString(w, verifiedRows(t)); err != nil {
			return err
		}
	}
	what := fmt.Sprintf("%s rows", humanize.Comma(rows))
	if r.SamplePct < 100 {
		what += fmt.Sprintf(" (a sample of %v percent)", r.SamplePct)
	}
	_, err := fmt.Fprintf(w, "%s and target %s: %s. %s in %d tables, in %s.\n", r.Subscription, r.Target, r.Verdict, what, len(r.Tables), seconds(r.Seconds))
	return err
}

// verifiedRows are the details of a table, a line each.
func verifiedRows(t *verify.TableReport) string {
	var b strings.Builder
	name := t.Schema + "." + t.Table
	if t.Problem != "" {
		fmt.Fprintf(&b, "%s: %s\n", name, t.Problem)
	}
	for _, n := range t.Notes {
		fmt.Fprintf(&b, "%s: %s\n", name, n)
	}
	var listed int64
	for i := range t.Rows {
		r := &t.Rows[i]
		listed += rowsOf(r)
		fmt.Fprintf(&b, "%s %s: %s", name, r, r.Kind)
		if len(r.Columns) > 0 {
			b.WriteString(" in " + strings.Join(r.Columns, ", "))
		}
		if r.Source > 1 || r.Target > 1 {
			fmt.Fprintf(&b, ", %d rows on the source and %d on the target", r.Source, r.Target)
		}
		if len(r.Shards) > 0 {
			b.WriteString(", shard " + strings.Join(r.Shards, ", "))
		}
		if r.Repair != "" {
			b.WriteString("; repair: " + r.Repair)
		}
		if r.Reason != "" {
			b.WriteString("; " + r.Reason)
		}
		b.WriteByte('\n')
	}
	if all := t.Differing + t.Missing + t.Extra + t.Undecided; all > listed && listed > 0 {
		fmt.Fprintf(&b, "%s: and %s more. Try: --keys %d\n", name, humanize.Comma(all-listed), all)
	}
	return b.String()
}

// rowsOf is what a line counts for: without a key it is about all rows of the same values.
func rowsOf(r *verify.RowReport) int64 {
	switch r.Kind {
	case verify.KindMissing:
		return int64(r.Source - r.Target)
	case verify.KindExtra:
		return int64(r.Target - r.Source)
	}
	return 1
}

// verifyProgress shows how far a comparison is: one line that changes on a terminal, else a line per table.
type verifyProgress struct {
	w        io.Writer
	terminal bool
	last     time.Time
	width    int
}

// progressEvery is the time between two updates of the line.
const progressEvery = 200 * time.Millisecond

func newVerifyProgress(w io.Writer) *verifyProgress {
	f, ok := w.(*os.File)
	if !ok {
		return &verifyProgress{w: w}
	}
	info, err := f.Stat()
	return &verifyProgress{w: w, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (v *verifyProgress) show(p verify.Progress) {
	if !p.Done && (!v.terminal || time.Since(v.last) < progressEvery) {
		return
	}
	v.last = time.Now()
	text := fmt.Sprintf("%s: %s rows", p.Table, humanize.Comma(p.Rows))
	if !p.Done && p.RowsEstimated > p.Rows {
		text += fmt.Sprintf(" of about %s (%d %%)", humanize.Comma(p.RowsEstimated), 100*p.Rows/p.RowsEstimated)
	}
	if p.Suspects > 0 {
		text += fmt.Sprintf(", %s not equal at first sight", humanize.Comma(int64(p.Suspects)))
	}
	text += fmt.Sprintf("; %d of %d tables", p.TablesDone, p.Tables)
	if !v.terminal {
		fmt.Fprintln(v.w, text)
		return
	}
	width := len(text)
	fmt.Fprintf(v.w, "\r%-*s", v.width, text)
	v.width = width
}

// end clears the line.
func (v *verifyProgress) end() {
	if v.terminal && v.width > 0 {
		fmt.Fprintf(v.w, "\r%*s\r", v.width, "")
	}
}
