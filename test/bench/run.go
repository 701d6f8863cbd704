package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// run runs everything and writes the reports: also of what was measured before an error.
func run(ctx context.Context, o Options, contenders func(version int) []Contender, out io.Writer) (err error) {
	shards := 1
	if o.Delays {
		shards = delayShards
	}
	for _, letter := range o.Workloads {
		shards = max(shards, workload(string(letter)).Shards)
	}
	l, err := openLab(ctx, shards)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	report, err := newReport(ctx, l, o)
	if err != nil {
		return err
	}
	report.about(out)
	var all []Contender
	for _, c := range contenders(l.target().Version()) {
		if o.Contenders.MatchString(c.Name()) {
			all = append(all, c)
		}
	}
	for _, letter := range o.Workloads {
		results, err := measure(ctx, l, workload(string(letter)), o, all, out)
		if err != nil {
			return errors.Join(fmt.Errorf("workload %c: %w", letter, err), report.write(o.Out))
		}
		report.Workloads = append(report.Workloads, results)
		results.table(out)
	}
	if o.Delays {
		if err := report.measureDelays(ctx, l, o); err != nil {
			return errors.Join(err, report.write(o.Out))
		}
		report.delays(out)
	}
	report.judge()
	report.verdicts(out)
	return report.write(o.Out)
}

func (r *Report) measureDelays(ctx context.Context, l *lab, o Options) (err error) {
	step, cancel := o.limit(ctx)
	defer cancel()
	if r.Merge, err = measureMerging(step, l, o); err != nil {
		return fmt.Errorf("the joiner's delay: %w", err)
	}
	r.Delays, err = measureDelays(ctx, l, o)
	return err
}

// measure builds a backlog and lets everybody drain it.
func measure(ctx context.Context, l *lab, w *Workload, o Options, all []Contender, out io.Writer) (*Results, error) {
	step, cancel := o.limit(ctx)
	defer cancel()
	began := time.Now()
	b, err := buildBacklog(step, l, w, o, all)
	if err != nil {
		return nil, err
	}
	results := newResults(b, all)
	fmt.Fprintf(out, "\n(%s) %s: %d transactions, %d rows, %.0f MB of WAL, written in %.1f s\n",
		w.Letter, w.Title, b.Expected.Transactions, b.Expected.Rows, float64(b.WALBytes)/1e6, time.Since(began).Seconds())
	for round := range o.Warmups + o.Rounds {
		for i := range all {
			at := (i + round) % len(all)
			d, err := drain(ctx, b, all[at], slotName(at, round), o)
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", all[at].Name(), round, err)
			}
			counts := round >= o.Warmups
			fmt.Fprintf(out, "  round %d  %-32s %8.2f s%s\n", round, all[at].Name(), d.Seconds, map[bool]string{false: "  (warm-up)"}[counts])
			if counts {
				d.Round = round
				results.Contenders[at].Drains = append(results.Contenders[at].Drains, d)
			}
		}
	}
	results.conclude()
	return results, b.Close(ctx)
}

// drain is one drain with its limit; its slots go with it.
func drain(ctx context.Context, b *Backlog, c Contender, slot string, o Options) (Drain, error) {
	step, cancel := o.limit(ctx)
	defer cancel()
	d, err := c.Drain(step, b, slot)
	if err != nil {
		return d, err
	}
	return d, b.dropSlots(step, slot)
}
