// Command plot draws the report of the benchmark: rows per second of each contender, one diagram for each workload, with the
// slowest and the fastest round. It is a module of its own, so that what it takes to draw is no dependency of the product.
//
//	plot bench.json bench.svg
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// report is what is needed of the benchmark's.
type report struct {
	Workloads []workload
}

type workload struct {
	Letter, Title string
	Contenders    []struct {
		Name string
		Rows struct{ Median, Least, Most float64 } `json:"rows_per_second"`
	}
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: plot bench.json bench.svg")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if len(r.Workloads) == 0 {
		return fmt.Errorf("%s holds no workload", from)
	}
	height := vg.Length(0)
	for i := range r.Workloads {
		height += r.Workloads[i].height()
	}
	picture := vgsvg.New(22*vg.Centimeter, height)
	rest := draw.New(picture)
	for i := range r.Workloads {
		w := &r.Workloads[i]
		p, err := w.plot()
		if err != nil {
			return fmt.Errorf("workload %s: %w", w.Letter, err)
		}
		below := rest.Max.Y - rest.Min.Y - w.height()
		p.Draw(draw.Crop(rest, vg.Centimeter/2, -vg.Centimeter, below+vg.Centimeter/2, -vg.Centimeter/4))
		rest = draw.Crop(rest, 0, 0, 0, -w.height())
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = picture.WriteTo(f)
	return errors.Join(err, f.Close())
}

const barWidth = 0.45 * vg.Centimeter

func (w *workload) height() vg.Length {
	return 3*vg.Centimeter + vg.Length(len(w.Contenders))*1.5*barWidth
}

var (
	oursColor = color.RGBA{0x1f, 0x77, 0xb4, 0xff}
	baseColor = color.RGBA{0xb0, 0xb0, 0xb0, 0xff}
)

// whiskers are medians with what lies between the slowest and the fastest round.
type whiskers struct {
	plotter.XYs
	plotter.XErrors
}

// plot draws the first contender on top, ours in another colour.
func (w *workload) plot() (*plot.Plot, error) {
	n := len(w.Contenders)
	ours, base, names := make(plotter.Values, n), make(plotter.Values, n), make([]string, n)
	spread := whiskers{make(plotter.XYs, n), make(plotter.XErrors, n)}
	for i, c := range w.Contenders {
		at := n - 1 - i
		names[at] = c.Name
		if baseline(c.Name) {
			base[at] = c.Rows.Median
		} else {
			ours[at] = c.Rows.Median
		}
		spread.XYs[at] = plotter.XY{X: c.Rows.Median, Y: float64(at)}
		spread.XErrors[at].Low, spread.XErrors[at].High = c.Rows.Median-c.Rows.Least, c.Rows.Most-c.Rows.Median
	}
	p := plot.New()
	p.Title.TextStyle.Font.Variant, p.X.Tick.Label.Font.Variant, p.Y.Tick.Label.Font.Variant = "Sans", "Sans", "Sans"
	p.Title.Padding = vg.Centimeter / 4
	p.Title.Text = fmt.Sprintf("(%s) %s: rows per second", w.Letter, w.Title)
	p.X.Min = 0
	for values, fill := range map[*plotter.Values]color.Color{&ours: oursColor, &base: baseColor} {
		bars, err := plotter.NewBarChart(*values, barWidth)
		if err != nil {
			return nil, err
		}
		bars.Horizontal, bars.Color, bars.LineStyle.Width = true, fill, 0
		p.Add(bars)
	}
	lines, err := plotter.NewXErrorBars(spread)
	if err != nil {
		return nil, err
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	p.Add(grid, lines)
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.6, float64(n)-0.4
	p.X.Tick.Marker = thousands{}
	return p, nil
}

// thousands labels an axis with 100k for 100,000.
type thousands struct{}

func (thousands) Ticks(low, high float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10(high-low)))
	for (high-low)/step < 5 {
		step /= 2
	}
	var ticks []plot.Tick
	for at := 0.0; at <= high; at += step {
		ticks = append(ticks, plot.Tick{Value: at, Label: strconv.FormatFloat(at/1000, 'f', -1, 64) + "k"})
	}
	return ticks
}

// baseline says whether the contender is PostgreSQL's own.
func baseline(name string) bool {
	return slices.ContainsFunc([]string{"pg_recvlogical", "native"}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}
