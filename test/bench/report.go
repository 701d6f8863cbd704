package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is everything that a run found out.
type Report struct {
	Machine   Machine    `json:"machine"`
	Began     time.Time  `json:"began"`
	Rounds    int        `json:"rounds"`
	Warmups   int        `json:"warmups"`
	Size      float64    `json:"size"`
	Workloads []*Results `json:"workloads"`
	Delays    []*Delay   `json:"delays,omitempty"`
	Merge     *Merging   `json:"merge,omitempty"`
	Verdicts  []*Verdict `json:"verdicts"`
}

// Results are of one workload.
type Results struct {
	Letter     string    `json:"letter"`
	Title      string    `json:"title"`
	Shards     int       `json:"shards"`
	Backlog    Count     `json:"backlog"`
	WALBytes   int64     `json:"wal_bytes"`
	Contenders []*Result `json:"contenders"`
	Ratios     []Ratio   `json:"ratios"`
}

// Result is of one contender.
type Result struct {
	Name         string  `json:"name"`
	Drains       []Drain `json:"drains"`
	Seconds      Spread  `json:"seconds"`
	Transactions Spread  `json:"transactions_per_second"`
	Rows         Spread  `json:"rows_per_second"`
	// Processes are medians over the drains, for a million rows; but for the peaks of memory.
	Processes map[string]PerMillion `json:"processes"`
}

// PerMillion is what a kind of process takes for a million rows.
type PerMillion struct {
	CPUSeconds float64 `json:"cpu_seconds"`
	AllocBytes float64 `json:"alloc_bytes,omitempty"`
	Allocs     float64 `json:"allocs,omitempty"`
	PeakBytes  float64 `json:"peak_bytes"`
}

// Ratio is what a comparison came to, round by round.
type Ratio struct {
	Comparison
	Factor Spread `json:"factor"`
}

func (r *Ratio) String() string {
	return fmt.Sprintf("%s: %.2f [%.2f %.2f]", r.Comparison.String(), r.Factor.Median, r.Factor.Least, r.Factor.Most)
}

func newReport(ctx context.Context, l *lab, o Options) (*Report, error) {
	m, err := lookAtMachine(ctx, l)
	return &Report{Machine: m, Began: time.Now().UTC(), Rounds: o.Rounds, Warmups: o.Warmups, Size: o.Size}, err
}

func newResults(b *Backlog, all []Contender) *Results {
	r := &Results{Letter: b.Letter, Title: b.Title, Shards: b.Shards, Backlog: b.Expected, WALBytes: b.WALBytes}
	for _, c := range all {
		r.Contenders = append(r.Contenders, &Result{Name: c.Name()})
	}
	return r
}

// conclude makes medians and ratios.
func (r *Results) conclude() {
	for _, c := range r.Contenders {
		c.conclude(r.Backlog)
	}
	for i := range goals {
		c := goals[i].Comparison
		ours, base := r.find(c.Ours), r.find(c.Base)
		known := slices.ContainsFunc(r.Ratios, func(r Ratio) bool { return r.Comparison == c })
		if ours == nil || base == nil || known {
			continue
		}
		var factors []float64
		for i := range ours.Drains {
			factors = append(factors, c.factor(&ours.Drains[i], &base.Drains[i]))
		}
		r.Ratios = append(r.Ratios, Ratio{Comparison: c, Factor: spreadOf(factors)})
	}
}

func (r *Results) find(name string) *Result {
	for _, c := range r.Contenders {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (r *Result) conclude(backlog Count) {
	each := func(value func(d *Drain) float64) Spread {
		var values []float64
		for i := range r.Drains {
			values = append(values, value(&r.Drains[i]))
		}
		return spreadOf(values)
	}
	r.Seconds = each(func(d *Drain) float64 { return d.Seconds })
	r.Transactions = each(func(d *Drain) float64 { return float64(backlog.Transactions) / d.Seconds })
	r.Rows = each(func(d *Drain) float64 { return float64(backlog.Rows) / d.Seconds })
	r.Processes = map[string]PerMillion{}
	million := float64(backlog.Rows) / 1e6
	for name := range r.Drains[0].Processes {
		r.Processes[name] = PerMillion{
			CPUSeconds: each(func(d *Drain) float64 { return d.Processes[name].CPUSeconds }).Median / million,
			AllocBytes: each(func(d *Drain) float64 { return float64(d.Processes[name].AllocBytes) }).Median / million,
			Allocs:     each(func(d *Drain) float64 { return float64(d.Processes[name].Allocs) }).Median / million,
			PeakBytes:  each(func(d *Drain) float64 { return float64(d.Processes[name].PeakBytes) }).Most,
		}
	}
}

// about says what was measured where.
func (r *Report) about(out io.Writer) {
	m := r.Machine
	fmt.Fprintf(out, "%s, %d CPUs for everything, %.1f GiB of memory; %s; load before: %s; files on %s\n", m.CPU, m.CPUs, float64(m.MemoryBytes)/(1<<30), m.System, m.Load, m.Files)
	fmt.Fprintf(out, "%s; %s; shardcdc %s, %s\n", m.PostgreSQL, m.Go, m.Revision, "embedded NATS "+m.NATS)
	fmt.Fprintf(out, "fsync %s, synchronous_commit %s; a write with fsync takes %.2f ms (median of %d); full-page writes %s\n",
		m.Settings["fsync"], m.Settings["synchronous_commit"], m.FsyncMillis, fsyncs, m.Settings["full_page_writes"])
	var words []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		words = append(words, name+"="+m.Settings[name])
	}
	fmt.Fprintf(out, "servers: %s\n", strings.Join(words, " "))
	fmt.Fprintf(out, "%d rounds after %d to warm up; size %g\n", r.Rounds, r.Warmups, r.Size)
}

// table writes a workload's results.
func (r *Results) table(out io.Writer) {
	fmt.Fprintf(out, "\n(%s) %s: %d transactions, %d rows, %.0f MB of WAL. Medians; in brackets the least and the most.\n",
		r.Letter, r.Title, r.Backlog.Transactions, r.Backlog.Rows, float64(r.WALBytes)/1e6)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "contender\tseconds\ttxn/s\trows/s\tall CPU s\tfor a million rows, by process: CPU s, allocated MB, thousands of allocations; memory at most\n")
	for _, c := range r.Contenders {
		fmt.Fprintf(w, "%s\t%.2f [%.2f %.2f]\t%.0f\t%.0f\t%.2f\t%s%s\n", c.Name, c.Seconds.Median, c.Seconds.Least, c.Seconds.Most,
			c.Transactions.Median, c.Rows.Median, c.cpu(), c.processes(), c.wrong())
	}
	_ = w.Flush() // to a terminal or a buffer
	for _, ratio := range r.Ratios {
		fmt.Fprintln(out, ratio.String())
	}
}

// cpu is what all processes take for a million rows.
func (r *Result) cpu() (total float64) {
	for _, p := range r.Processes {
		total += p.CPUSeconds
	}
	return total
}

// wrong says in how many looks the target showed what the source never was: native subscriptions of several shards do.
func (r *Result) wrong() string {
	looks, wrong := 0, 0
	for _, d := range r.Drains {
		looks, wrong = looks+d.Looks, wrong+d.Wrong
	}
	if wrong == 0 {
		return ""
	}
	return fmt.Sprintf("; a state that never was in %d of %d looks", wrong, looks)
}

// kinds are of processes.
func (r *Result) kinds() []string { return slices.Sorted(maps.Keys(r.Processes)) }

func (r *Result) processes() string {
	var all []string
	for _, name := range r.kinds() {
		p := r.Processes[name]
		text := fmt.Sprintf("%s: %.2f", name, p.CPUSeconds)
		if p.Allocs > 0 {
			text += fmt.Sprintf(", %.0f MB, %.0f k", p.AllocBytes/1e6, p.Allocs/1e3)
		}
		all = append(all, text+fmt.Sprintf("; %.0f MiB", p.PeakBytes/(1<<20)))
	}
	return strings.Join(all, " | ")
}

// jsonReport is the report's file in its folder.
const jsonReport = "bench.json"

// write writes the reports: JSON, and the tables as text.
func (r *Report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	r.judge()
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	var tables strings.Builder
	r.about(&tables)
	r.verdicts(&tables)
	for _, w := range r.Workloads {
		w.table(&tables)
	}
	r.delays(&tables)
	return errors.Join(
		os.WriteFile(filepath.Join(dir, jsonReport), append(text, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "bench.txt"), []byte(tables.String()), 0o644))
}
