package main

import (
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

const (
	barPitch = 0.62 * vg.Centimeter
	barWidth = 0.4 * vg.Centimeter
)

var (
	reached       = color.RGBA{0x4c, 0xaf, 0x6d, 0xff}
	missed        = color.RGBA{0xe8, 0x92, 0x3c, 0xff}
	nothingWanted = color.RGBA{0xb0, 0xb0, 0xb0, 0xff}
)

// panel is one workload. Factors are on a logarithmic axis: twice and half as fast are equally far from 1.
type panel struct {
	title string
	bars  []bar
	axis  *axis // nil: the one of all ratios
}

// axis is what can be seen.
type axis struct{ low, high float64 }

func (a *axis) show(bars []bar) {
	for _, b := range bars {
		a.low, a.high = min(a.low, b.value.Least), max(a.high, b.value.Most, b.want)
	}
}

type bar struct {
	name  string
	value spread
	want  float64 // 0: nothing
	fill  color.Color
}

// plot draws the first bar on top, in a panel with room for so many.
func (p *panel) plot(room int, shown axis) (*plot.Plot, error) {
	if p.axis != nil {
		shown = *p.axis
	}
	out := plot.New()
	out.Title.Text, out.Title.TextStyle, out.Title.Padding = p.title, style(11), vg.Millimeter*2
	out.Title.TextStyle.XAlign = draw.XCenter
	names := make([]string, room)
	for i, b := range p.bars {
		names[room-1-i] = b.name
	}
	out.Y.Tick.Label.Font, out.X.Tick.Label.Font = style(8.5).Font, style(8.5).Font
	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	zero := 1.0 // where bars begin
	if p.axis != nil {
		zero = math.Exp2(math.Floor(math.Log2(shown.low)))
	}
	out.Add(grid, bars{p.bars, room, zero})
	out.NominalY(names...)
	out.Y.Min, out.Y.Max = -0.6, float64(room)-0.4
	out.X.Min, out.X.Max = math.Floor(math.Log2(shown.low)), math.Log2(shown.high)+0.9 // room for the number behind the longest
	out.X.Tick.Marker = ticks{}
	return out, nil
}

// bars draws them.
type bars struct {
	all  []bar
	room int
	zero float64
}

func (b bars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	at := func(factor float64) vg.Length { return x(math.Log2(factor)) }
	for i, bar := range b.all {
		middle := y(float64(b.room - 1 - i))
		box := func(from, to, half vg.Length) []vg.Point {
			return []vg.Point{{X: from, Y: middle - half}, {X: to, Y: middle - half}, {X: to, Y: middle + half}, {X: from, Y: middle + half}}
		}
		c.FillPolygon(bar.fill, box(at(b.zero), at(bar.value.Median), barWidth/2))
		whisker := draw.LineStyle{Color: color.Gray{0x50}, Width: vg.Points(1)}
		c.StrokeLine2(whisker, at(bar.value.Least), middle, at(bar.value.Most), middle)
		for _, end := range []float64{bar.value.Least, bar.value.Most} {
			c.StrokeLine2(whisker, at(end), middle-barWidth/4, at(end), middle+barWidth/4)
		}
		if bar.want > 0 {
			c.FillPolygon(color.Black, box(at(bar.want)-vg.Points(1), at(bar.want)+vg.Points(1), barWidth*0.6))
		}
		right := max(at(b.zero), at(bar.value.Most), at(bar.value.Median))
		if bar.want > 0 {
			right = max(right, at(bar.want))
		}
		c.FillText(style(8.5), vg.Point{X: right + vg.Points(4), Y: middle}, fmt.Sprintf("%.2f", bar.value.Median))
	}
	c.StrokeLine2(draw.LineStyle{Color: color.Black, Width: vg.Points(1)}, at(b.zero), c.Min.Y, at(b.zero), c.Max.Y)
}
