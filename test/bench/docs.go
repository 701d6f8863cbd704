package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// Where the report stands in a document. What is between is replaced.
const (
	docsBegin = "<!-- bench: from here on written by make bench-docs -->"
	docsEnd   = "<!-- bench: to here -->"
)

// writeDocs puts a report into a document.
func writeDocs(from, document string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("%w. Try: make bench", err)
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	old, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(old), docsBegin)
	_, after, ends := strings.Cut(rest, docsEnd)
	if !begins || !ends {
		return fmt.Errorf("%s has no place for the report. Try: lines %q and %q where it shall stand", document, docsBegin, docsEnd)
	}
	var out strings.Builder
	out.WriteString(before + docsBegin + "\n\n")
	r.judge()
	r.markdown(&out)
	out.WriteString("\n" + docsEnd + after)
	return os.WriteFile(document, []byte(out.String()), 0o644)
}

// markdown writes the report as it stands in the documentation.
func (r *Report) markdown(out io.Writer) {
	m := r.Machine
	fmt.Fprintf(out, "%s: %s, %d CPUs for everything, %.1f GiB of memory; %s; files on %s; a write with fsync takes %.2f ms. %s; %s; embedded NATS %s; revision %s. fsync %s. %d rounds after %d to warm up, size %g.\n",
		r.Began.Format("2006-01-02"), m.CPU, m.CPUs, float64(m.MemoryBytes)/(1<<30), m.System, m.Files, m.FsyncMillis, short(m.PostgreSQL), m.Go, m.NATS, m.Revision,
		m.Settings["fsync"], r.Rounds, r.Warmups, r.Size)
	fmt.Fprint(out, "\n![How many times as fast as PostgreSQL's own programs](bench.svg)\n")
	fmt.Fprint(out, "\nMedians of rounds; in brackets the least and the most.\n\n| goal | wanted | measured | reached |\n|---|---|---|---|\n")
	for _, l := range r.goalLines() {
		fmt.Fprintf(out, "| %s | %s | %s | %s |\n", l.what, l.wanted, l.measured, l.reached)
	}
	for _, w := range r.Workloads {
		w.markdown(out)
	}
	if len(r.Delays) > 0 {
		fmt.Fprintf(out, "\nDelay from the commit's acknowledgement, in ms: one-row transactions on one of %d shards, the others are idle.\n\n", r.Delays[0].Shards)
		fmt.Fprint(out, "| until | load | transactions/s | p50 | p99 | p99.9 | most |\n|---|---|---|---|---|---|---|\n")
		for _, d := range r.Delays {
			fmt.Fprintf(out, "| %s | %.0f %% | %.0f | %.2f | %.2f | %.2f | %.2f |\n", d.where(), 100*d.Part, d.Rate, d.P50, d.P99, d.P999, d.Most)
		}
	}
	if r.Merge != nil {
		fmt.Fprintln(out)
		r.Merge.write(out)
	}
}

func (r *Results) markdown(out io.Writer) {
	fmt.Fprintf(out, "\n(%s) %s: %d transactions, %d rows, %.0f MB of WAL.\n\n| contender | seconds | transactions/s | rows/s | CPU s for a million rows | memory at most, MiB |\n|---|---|---|---|---|---|\n",
		r.Letter, r.Title, r.Backlog.Transactions, r.Backlog.Rows, float64(r.WALBytes)/1e6)
	for _, c := range r.Contenders {
		var cpu, memory []string
		for _, name := range c.kinds() {
			cpu = append(cpu, fmt.Sprintf("%s %s", name, digits(c.Processes[name].CPUSeconds)))
			memory = append(memory, fmt.Sprintf("%.0f", c.Processes[name].PeakBytes/(1<<20)))
		}
		fmt.Fprintf(out, "| %s | %s [%s %s] | %.0f | %.0f | %s | %s |\n", c.Name, digits(c.Seconds.Median), digits(c.Seconds.Least), digits(c.Seconds.Most),
			c.Transactions.Median, c.Rows.Median, strings.Join(cpu, ", "), strings.Join(memory, ", "))
	}
}

// short is "PostgreSQL 15.18" of what version() says.
func short(version string) string {
	words := strings.Fields(version)
	return strings.Join(words[:min(2, len(words))], " ")
}
