package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"shardcdc/pipeline/control"
)

// A Comparison is of two contenders: how many times as fast as the base ours is; or, if processes are named, how much of the
// base's CPU time ours takes.
type Comparison struct {
	Ours        string `json:"ours"`
	OurProcess  string `json:"our_process,omitempty"`
	Base        string `json:"base"`
	BaseProcess string `json:"base_process,omitempty"`
}

// A Goal says how a comparison shall end on some workloads. It is shown for all.
type Goal struct {
	Comparison
	On   string // letters of the workloads
	Want Bounds
}

// Bounds of a number, each included. Zero: none.
type Bounds struct {
	Least float64 `json:"least,omitempty"`
	Most  float64 `json:"most,omitempty"`
}

func (b Bounds) hold(x float64) bool { return x >= b.Least && (b.Most == 0 || x <= b.Most) }

func (b Bounds) text(unit string) string {
	if b.Most == 0 {
		return fmt.Sprintf("at least %g%s", b.Least, unit)
	}
	return fmt.Sprintf("at most %.3g%s", b.Most, unit)
}

const everywhere = "abcdef"

func storedBy(commit string, workers int) string {
	return (&stored{commit: commit, workers: workers}).Name()
}

func pathBy(commit string, workers int) string {
	return (&path{commit: commit, workers: workers}).Name()
}

// goals are the ratios that are of interest.
var goals = []Goal{
	{Comparison{Ours: "capture", Base: "pg_recvlogical tcp"}, "abc", Bounds{Least: 2.5}},
	{Comparison{Ours: "capture", Base: "pg_recvlogical unix"}, "abc", Bounds{Least: 1}},
	{Comparison{Ours: "capture", OurProcess: "capture", Base: "capture", BaseProcess: "walsender"}, "abc", Bounds{Most: 0.25}},
	{Comparison{Ours: "capture", OurProcess: "capture", Base: "dumpers", BaseProcess: "dumpers"}, "e", Bounds{Most: 1.1}},
	{Comparison{Ours: "durable internal", Base: "pg_recvlogical tcp"}, "abc", Bounds{Least: 2}},
	{Comparison{Ours: "durable json", Base: "pg_recvlogical tcp"}, "abc", Bounds{Least: 1.2}},
	{Comparison{Ours: storedBy("on", usualWorkers), Base: "native commit=on"}, "ac", Bounds{Least: 4}},
	{Comparison{Ours: storedBy("on", usualWorkers), Base: "native commit=on"}, "b", Bounds{Least: 1.5}},
	{Comparison{Ours: storedBy("off", 2), Base: "native commit=off"}, "abc", Bounds{Least: 1.5}},
	{Comparison{Ours: storedBy("off", usualWorkers), Base: "native commit=off"}, "abc", Bounds{Least: 1.5}},
	{Comparison{Ours: pathBy("on", usualWorkers), Base: "native commit=on"}, everywhere, Bounds{Least: 1}},
	{Comparison{Ours: pathBy("off", usualWorkers), Base: "native commit=off"}, everywhere, Bounds{Least: 1}},
}

func (c *Comparison) String() string {
	switch {
	case c.OurProcess == "":
		return fmt.Sprintf("%s: times as fast as %s", c.Ours, c.Base)
	case c.Ours == c.Base:
		return fmt.Sprintf("%s: CPU time, in times of its %s's", c.Ours, c.BaseProcess)
	}
	return fmt.Sprintf("%s: CPU time, in times of the %s'", c.Ours, c.Base)
}

// factor compares two drains.
func (c *Comparison) factor(ours, base *Drain) float64 {
	if c.OurProcess == "" {
		return base.Seconds / ours.Seconds
	}
	// A drain that was too short for the server's clock ticks has no ratio; 10 ms is one tick.
	return ours.Processes[c.OurProcess].CPUSeconds / max(0.01, base.Processes[c.BaseProcess].CPUSeconds)
}

// A Verdict says of one number whether it is as wanted.
type Verdict struct {
	What     string  `json:"what"`
	Workload string  `json:"workload,omitempty"` // its letter
	Unit     string  `json:"unit,omitempty"`
	Want     Bounds  `json:"want"`
	Measured *Spread `json:"measured"` // nil: not measured in this run
	Reached  bool    `json:"reached"`  // of the median
}

func (v *Verdict) measured() string {
	m := v.Measured
	if m.Least == m.Most {
		return digits(m.Median) + v.Unit
	}
	return fmt.Sprintf("%s [%s %s]%s", digits(m.Median), digits(m.Least), digits(m.Most), v.Unit)
}

// A goalLine is one goal on all its workloads, as it is shown.
type goalLine struct{ what, wanted, measured, reached string }

func (r *Report) goalLines() (lines []goalLine) {
	for rest := r.Verdicts; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].What == rest[0].What && rest[n].Want == rest[0].Want {
			n++
		}
		lines = append(lines, lineOfGoal(rest[:n]))
		rest = rest[n:]
	}
	return lines
}

func lineOfGoal(same []*Verdict) goalLine {
	var on, values, failed []string
	for _, v := range same {
		where := ""
		if v.Workload != "" {
			on = append(on, "("+v.Workload+")")
			where = "(" + v.Workload + ") "
		}
		if v.Measured == nil {
			continue
		}
		values = append(values, where+v.measured())
		if !v.Reached {
			failed = append(failed, "("+v.Workload+")")
		}
	}
	wanted := same[0].Want.text(same[0].Unit)
	if len(on) > 0 {
		wanted += " on " + strings.Join(on, ", ")
	}
	line := goalLine{same[0].What, wanted, strings.Join(values, ", "), "yes"}
	switch {
	case len(values) == 0:
		line.measured, line.reached = "not measured", ""
	case len(failed) == len(values):
		line.reached = "no"
	case len(failed) > 0: // A goal without workloads is one line.
		line.reached = "not on " + strings.Join(failed, ", ")
	}
	return line
}

// digits: two behind the point, or three that count.
func digits(x float64) string {
	if x != 0 && math.Abs(x) < 0.1 {
		return fmt.Sprintf("%.2g", x)
	}
	if math.Abs(x) >= 100 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

func verdict(what, workload, unit string, want Bounds, measured *Spread) *Verdict {
	return &Verdict{What: what, Workload: workload, Unit: unit, Want: want, Measured: measured, Reached: measured != nil && want.hold(measured.Median)}
}

const (
	// allocsPerRow: a row must cost none. What the process allocates to begin, some ten thousand, is in the number, and what a
	// message costs; so only many rows say something.
	allocsPerRow    = 0.1
	allocsRowsLeast = 500_000
	// memoryMost is what a node and a worker may take together with what Go's collector leaves lying about.
	memoryMost = 2 * control.DefaultMemoryBytesMax
)

// judge compares everything that is wanted with what was measured.
func (r *Report) judge() {
	r.Verdicts = nil
	for i := range goals {
		g := &goals[i]
		for _, letter := range g.On {
			r.Verdicts = append(r.Verdicts, verdict(g.String(), string(letter), "", g.Want, r.ratio(string(letter), g.Comparison)))
		}
	}
	r.Verdicts = append(r.Verdicts, verdict("allocations of the node for a row (internal)", "b", "", Bounds{Most: allocsPerRow}, r.allocations("b", "durable internal", "node")))
	for _, process := range []string{"node", "apply"} {
		r.Verdicts = append(r.Verdicts, verdict("memory at most, whatever the backlog: "+process, "", " MiB", Bounds{Most: memoryMost >> 20}, r.memory(process)))
	}
	r.Verdicts = append(r.Verdicts, verdict("looks at targets of ours that showed what the source was", "", " %", Bounds{Least: 100}, r.lawful()))
	r.judgeDelays()
}

func (r *Report) workload(letter string) *Results {
	for _, w := range r.Workloads {
		if w.Letter == letter {
			return w
		}
	}
	return nil
}

func (r *Report) ratio(letter string, c Comparison) *Spread {
	if w := r.workload(letter); w != nil {
		for i := range w.Ratios {
			if w.Ratios[i].Comparison == c {
				return &w.Ratios[i].Factor
			}
		}
	}
	return nil
}

func (r *Report) allocations(letter, contender, process string) *Spread {
	w := r.workload(letter)
	if w == nil || w.find(contender) == nil || w.Backlog.Rows < allocsRowsLeast {
		return nil
	}
	var all []float64
	for _, d := range w.find(contender).Drains {
		all = append(all, float64(d.Processes[process].Allocs)/float64(w.Backlog.Rows))
	}
	s := spreadOf(all)
	return &s
}

// memory is of all contenders of ours, on all workloads: the most that one process took, and so its median is.
func (r *Report) memory(process string) *Spread {
	var all []float64
	for _, w := range r.Workloads {
		for _, c := range w.Contenders {
			if p, ok := c.Processes[process]; ok {
				all = append(all, p.PeakBytes/(1<<20))
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	s := spreadOf(all)
	s.Median = s.Most
	return &s
}

// lawful is the part of the looks at targets of ours, in percent. (One that shows anything else ends the run.)
func (r *Report) lawful() *Spread {
	looks, wrong := 0, 0
	for _, w := range r.Workloads {
		for _, c := range w.Contenders {
			for _, d := range c.Drains {
				if !strings.HasPrefix(c.Name, "native") {
					looks, wrong = looks+d.Looks, wrong+d.Wrong
				}
			}
		}
	}
	if looks == 0 {
		return nil
	}
	s := spreadOf([]float64{100 * float64(looks-wrong) / float64(looks)})
	return &s
}

// judgeDelays: half of the capacity is where a system is run.
func (r *Report) judgeDelays() {
	var p50, p99, added, trip *Spread
	for _, d := range r.Delays {
		if d.Consumer == "target" && d.Part == 0.5 {
			a, b := spreadOf([]float64{d.P50}), spreadOf([]float64{d.P99})
			p50, p99 = &a, &b
		}
	}
	want := Bounds{Most: 1}
	if m := r.Merge; m != nil {
		a, b := spreadOf([]float64{m.AddedP50}), spreadOf([]float64{m.ProbeP50})
		added, trip = &a, &b
		want.Most += trip.Median
	}
	r.Verdicts = append(r.Verdicts,
		verdict("commit to visible on the target at half of the capacity, p50", "", " ms", Bounds{Most: 5}, p50),
		verdict("commit to visible on the target at half of the capacity, p99", "", " ms", Bounds{Most: 25}, p99),
		verdict("delay that the joiner adds, p50 (one probe's round trip plus 1 ms)", "e", " ms", want, added))
}

// verdicts writes the table.
func (r *Report) verdicts(out io.Writer) {
	fmt.Fprintln(out, "\nGoals. Medians of rounds; in brackets the least and the most.")
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "goal\twanted\tmeasured\treached")
	for _, l := range r.goalLines() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.what, l.wanted, l.measured, l.reached)
	}
	_ = w.Flush() // to a terminal or a buffer
}
