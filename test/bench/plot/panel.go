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
}

type bar struct {
	name  string
	value spread
	want  float64 // 0: nothing
	fill  color.Color
}

// plot draws the first bar on top, in a panel with room for so many, on an axis that is the same for all panels.
func (p *panel) plot(room int, low, high float64) (*plot.Plot, error) {
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
	out.Add(grid, bars{p.bars, room})
	out.NominalY(names...)
	out.Y.Min, out.Y.Max = -0.6, float64(room)-0.4
	out.X.Min, out.X.Max = math.Floor(math.Log2(low)), math.Log2(high)+0.9 // room for the number behind the longest
	out.X.Tick.Marker = ticks{}
	return out, nil
}

// bars draws them.
type bars struct {
	all  []bar
	room int
}

func (b bars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	at := func(factor float64) vg.Length { return x(math.Log2(factor)) }
	for i, bar := range b.all {
		middle := y(float64(b.room - 1 - i))
		box := func(from, to, half vg.Length) []vg.Point {
			return []vg.Point{{X: from, Y: middle - half}, {X: to, Y: middle - half}, {X: to, Y: middle + half}, {X: from, Y: middle + half}}
		}
		c.FillPolygon(bar.fill, box(at(1), at(bar.value.Median), barWidth/2))
		whisker := draw.LineStyle{Color: color.Gray{0x50}, Width: vg.Points(1)}
		c.StrokeLine2(whisker, at(bar.value.Least), middle, at(bar.value.Most), middle)
		for _, end := range []float64{bar.value.Least, bar.value.Most} {
			c.StrokeLine2(whisker, at(end), middle-barWidth/4, at(end), middle+barWidth/4)
		}
		if bar.want > 0 {
			c.FillPolygon(color.Black, box(at(bar.want)-vg.Points(1), at(bar.want)+vg.Points(1), barWidth*0.6))
		}
		right := max(at(1), at(bar.value.Most), at(bar.value.Median))
		if bar.want > 0 {
			right = max(right, at(bar.want))
		}
		c.FillText(style(8.5), vg.Point{X: right + vg.Points(4), Y: middle}, fmt.Sprintf("%.2f", bar.value.Median))
	}
	one := draw.LineStyle{Color: color.Black, Width: vg.Points(1)}
	c.StrokeLine2(one, at(1), c.Min.Y, at(1), c.Max.Y)
}
