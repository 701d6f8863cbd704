package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cheggaaa/pb/v3"
	"github.com/cheggaaa/pb/v3/termutil"
	"github.com/dustin/go-humanize"

	"shardcdc/pipeline/control"
)

const (
	copyTablesMax = 15 // lines of tables
	barWidthMin   = 80
	barWidthMax   = 160
)

// copyHead says which copy it is and how it stands.
func copyHead(c *control.CopyStatus, now time.Time) string {
	text := fmt.Sprintf("%s, %s", c.Kind, c.State)
	switch {
	case c.State == control.CopyDone && c.Ended != nil:
		text += fmt.Sprintf(" %s ago: %s in %s, %s; the tables are consistent from csn %s on", seconds(now.Sub(*c.Ended).Seconds()),
			rowsText(c.Rows), plural(len(c.Tables), "table"), bytesText(c.Bytes), c.ConsistentFrom)
	case c.Error != "":
		text += ": " + oneLine(c.Error)
	default:
		text += fmt.Sprintf(", asked for by %s %s ago", c.By, seconds(now.Sub(c.Requested).Seconds()))
	}
	if c.Queued > 0 {
		text += fmt.Sprintf("; %s behind it", plural(c.Queued, "job"))
	}
	return text
}

// copySum is the copy in all, on a line.
func copySum(c *control.CopyStatus) string {
	text := fmt.Sprintf("%.1f %%, %d of %d parts, %s, %s", c.SyncPercent, c.CurrentIndex, c.TotalIndex, of(c.Rows, c.RowsEstimate, rowsText), of(c.Bytes, c.BytesEstimate, bytesText))
	if c.State == control.CopyCopying {
		text += fmt.Sprintf(", %s/s", bytesText(int64(c.BytesPerSecond)))
		if c.RemainingSeconds > 0 {
			text += ", " + seconds(c.RemainingSeconds) + " left"
		}
	}
	return text
}

func rowsText(n int64) string {
	if n == 1 {
		return "1 row"
	}
	return humanize.Comma(n) + " rows"
}

// of is a number and what it is expected to become. Statistics may be old.
func of(n, estimate int64, text func(int64) string) string {
	if estimate <= n {
		return text(n)
	}
	return text(n) + " of about " + text(estimate)
}

// copyTables are the tables to show: those that are being copied first, then those that wait, then what is done.
func copyTables(c *control.CopyStatus) (shown []control.CopyTableStatus, more int) {
	rank := map[string]int{control.CopyTableCopying: 0, control.CopyTableWaiting: 1, control.CopyTableDone: 2}
	shown = slices.Clone(c.Tables)
	slices.SortStableFunc(shown, func(a, b control.CopyTableStatus) int { return rank[a.State] - rank[b.State] })
	if len(shown) > copyTablesMax {
		return shown[:copyTablesMax], len(shown) - copyTablesMax
	}
	return shown, 0
}

// printCopy shows a copy, with bars where a person looks at a terminal.
func printCopy(w io.Writer, c *control.CopyStatus, bars bool, now time.Time) error {
	if _, err := fmt.Fprintf(w, "  copy        %s\n", copyHead(c, now)); err != nil {
		return err
	}
	for _, text := range c.Waiting {
		fmt.Fprintf(w, "  copy        waits: %s\n", oneLine(text))
	}
	if c.State.Ended() {
		return nil
	}
	_, err := io.WriteString(w, copyBody(c, bars, barWidth()))
	return err
}

// copyBody are the tables and the sum.
func copyBody(c *control.CopyStatus, bars bool, width int) string {
	tables, more := copyTables(c)
	longest := len("in all")
	for _, t := range tables {
		longest = max(longest, len(t.Schema)+1+len(t.Name))
	}
	var b strings.Builder
	line := func(name, rest string, percent float64) {
		name = fmt.Sprintf("  %-*s", longest, name)
		if bars {
			rest = bar(percent, min(max(width-len(name)-1, barWidthMin/2), barWidthMax), rest)
		}
		fmt.Fprintf(&b, "%s %s\n", name, rest)
	}
	for _, t := range tables {
		rest := fmt.Sprintf("%5.1f %%  %s, %s, %s", t.Percent, t.State, of(t.Rows, t.RowsEstimate, rowsText), of(t.Bytes, t.BytesEstimate, bytesText))
		if t.Again > 0 {
			rest += fmt.Sprintf(", %s to read again", rowsText(int64(t.Again)))
		}
		line(t.Schema+"."+t.Name, rest, t.Percent)
	}
	if more > 0 {
		fmt.Fprintf(&b, "  and %s more\n", plural(more, "table"))
	}
	line("in all", copySum(c), c.SyncPercent)
	return b.String()
}

// barPoints is how fine a bar is.
const barPoints = 1000

// bar is a bar with a text behind it, as wide as there is room.
func bar(percent float64, width int, text string) string {
	p := pb.New64(barPoints)
	p.SetTemplateString(`{{bar . "[" "=" "=" "." "]"}} {{string . "text"}}`)
	p.Set("text", text).SetWidth(max(width, len(text)+20)).SetCurrent(int64(percent / 100 * barPoints))
	return p.String()
}

// barWidth is the terminal's width.
func barWidth() int {
	width, err := termutil.TerminalWidth()
	if err != nil || width < barWidthMin {
		return barWidthMin
	}
	return width
}
