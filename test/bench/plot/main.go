// Command plot draws the report of the benchmark: for each workload how many times as fast as PostgreSQL's own programs ours
// are, with the slowest and the fastest round, and what is wanted. It is a module of its own, so that what it takes to draw is
// no dependency of the product.
//
//	plot bench.json bench.svg
//	plot bench.json bench.png
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// report is what is needed of the benchmark's.
type report struct {
	Workloads []workload
	Verdicts  []verdict
	Delays    []delay
	Machine   struct {
		CPU, PostgreSQL, Revision string
		CPUs                      int
	}
	Rounds int
	Size   float64
	Began  string
}

type workload struct {
	Letter, Title string
	Ratios        []ratio
}

type ratio struct {
	Ours       string
	Base       string
	OurProcess string `json:"our_process"`
	Factor     spread
}

type delay struct {
	Consumer string
	Part     float64 `json:"part_of_capacity"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
}

type spread struct{ Median, Least, Most float64 }

type verdict struct {
	What, Workload string
	Want           struct{ Least float64 }
	Measured       *spread
	Reached        bool
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: plot bench.json bench.svg|bench.png")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

const (
	panelWidth = 14 * vg.Centimeter
	margin     = vg.Centimeter / 2
	headHeight = 2.4 * vg.Centimeter
	columns    = 2
)

func run(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	panels := r.panels()
	if len(panels) == 0 {
		return fmt.Errorf("%s holds no workload with contenders to compare", from)
	}
	most, axis := 0, axis{0.5, 2}
	for _, p := range panels {
		most = max(most, len(p.bars))
		axis.show(p.bars)
	}
	if len(r.Delays) > 0 {
		most = max(most, len(r.Delays))
		panels = append(panels, r.delays())
	}
	rows := (len(panels) + columns - 1) / columns
	height := 2.2*vg.Centimeter + vg.Length(most)*barPitch
	picture, err := newPicture(to, columns*panelWidth, headHeight+vg.Length(rows)*height)
	if err != nil {
		return err
	}
	canvas := draw.New(picture)
	canvas.SetColor(color.White) // else it cannot be read on a dark page
	canvas.Fill(canvas.Rectangle.Path())
	r.head(canvas)
	for i, p := range panels {
		drawn, err := p.plot(most, axis)
		if err != nil {
			return fmt.Errorf("workload %s: %w", p.title, err)
		}
		x, top := vg.Length(i%columns)*panelWidth, canvas.Max.Y-headHeight-vg.Length(i/columns)*height
		drawn.Draw(draw.Canvas{Canvas: canvas.Canvas, Rectangle: vg.Rectangle{
			Min: vg.Point{X: x + margin, Y: top - height + margin}, Max: vg.Point{X: x + panelWidth - margin, Y: top},
		}})
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = picture.WriteTo(f)
	return errors.Join(err, f.Close())
}

type picture interface {
	vg.CanvasSizer
	io.WriterTo
}

func newPicture(to string, width, height vg.Length) (picture, error) {
	switch filepath.Ext(to) {
	case ".svg":
		return vgsvg.New(width, height), nil
	case ".png":
		return vgimg.PngCanvas{Canvas: vgimg.New(width, height)}, nil
	}
	return nil, fmt.Errorf("%s: the name must end in .svg or .png", to)
}

// style of text of a size in points.
func style(points float64) draw.TextStyle {
	s := plot.New().Title.TextStyle
	s.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(points)}
	s.XAlign, s.YAlign = draw.XLeft, draw.YCenter
	return s
}

// head says what is shown.
func (r *report) head(c draw.Canvas) {
	at := vg.Point{X: margin, Y: c.Max.Y - margin}
	c.FillText(style(13), at, "shardcdc: how many times as fast as PostgreSQL's own programs, on the same machine in the same run")
	at.Y -= vg.Centimeter * 0.6
	c.FillText(style(9), at, fmt.Sprintf("Bars: medians of %d rounds; whiskers: the least and the most. Black mark: wanted. Green: reached, orange: not, grey: nothing is wanted.", r.Rounds))
	at.Y -= vg.Centimeter * 0.5
	began := r.Began[:min(10, len(r.Began))]
	c.FillText(style(9), at, fmt.Sprintf("%s, %d CPUs for everything; %s; revision %s; size %g; %s", r.Machine.CPU, r.Machine.CPUs, server(r.Machine.PostgreSQL), r.Machine.Revision, r.Size, began))
}

// server is name and version of what version() says.
func server(text string) string {
	var name, version string
	if n, err := fmt.Sscan(text, &name, &version); err != nil || n < 2 {
		return text
	}
	return name + " " + version
}

// panels has one for each workload.
func (r *report) panels() (panels []panel) {
	for i := range r.Workloads {
		w := &r.Workloads[i]
		p := panel{title: fmt.Sprintf("(%s) %s", w.Letter, w.Title)}
		for _, ratio := range w.Ratios {
			if ratio.OurProcess != "" || ratio.Factor.Median <= 0 {
				continue // of CPU times
			}
			b := bar{name: ratio.Ours + " / " + ratio.Base, value: ratio.Factor, fill: nothingWanted}
			if v := r.verdict(w.Letter, &ratio); v != nil {
				b.want = v.Want.Least
				b.fill = missed
				if v.Reached {
					b.fill = reached
				}
			}
			p.bars = append(p.bars, b)
		}
		if len(p.bars) > 0 {
			panels = append(panels, p)
		}
	}
	return panels
}

// delays has one bar for each consumer and load: p50, with a whisker to p99.
func (r *report) delays() panel {
	p := panel{title: "delay from the commit, in ms: p50, whisker to p99", axis: &axis{0.5, 32}}
	for _, d := range r.Delays {
		name := map[string]string{"target": "visible on the target", "native": "visible, native subscriptions", "JSON": "received as JSON"}[d.Consumer]
		b := bar{name: fmt.Sprintf("%s, %.0f %% load", name, 100*d.Part), value: spread{Median: d.P50, Least: d.P50, Most: d.P99}, fill: nothingWanted}
		if d.Consumer == "target" && d.Part == 0.5 {
			b.want, b.fill = delayP50Most, missed
			if d.P50 <= delayP50Most && d.P99 <= delayP99Most {
				b.fill = reached
			}
		}
		p.bars = append(p.bars, b)
	}
	p.axis.show(p.bars)
	return p
}

// What is wanted at half of the capacity, in ms.
const (
	delayP50Most = 5
	delayP99Most = 25
)

// verdict on a ratio, if one was wanted.
func (r *report) verdict(letter string, ratio *ratio) *verdict {
	for i := range r.Verdicts {
		v := &r.Verdicts[i]
		if v.Workload == letter && v.Measured != nil && v.What == fmt.Sprintf("%s: times as fast as %s", ratio.Ours, ratio.Base) {
			return v
		}
	}
	return nil
}

// ticks are labelled with factors.
type ticks struct{}

func (ticks) Ticks(low, high float64) (all []plot.Tick) {
	for at := math.Floor(low); at <= high; at++ {
		label := strconv.FormatFloat(math.Exp2(math.Abs(at)), 'f', -1, 64)
		if at < 0 {
			label = "1/" + label
		}
		all = append(all, plot.Tick{Value: at, Label: label})
	}
	return all
}
