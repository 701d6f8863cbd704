package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cheggaaa/pb/v3"
	"github.com/cheggaaa/pb/v3/termutil"
	"github.com/dustin/go-humanize"

	"shardcdc/pipeline/control"
)

const (
	copyTablesMax = 15   // lines of tables
	barWidth      = 32   // of a bar with its ends
	barPoints     = 1000 // how fine it is
	widthMin      = 60   // of a terminal
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
	text := fmt.Sprintf("%5.1f %%  %d of %s, %s", c.SyncPercent, c.CurrentIndex, plural(c.TotalIndex, "part"), amount(&c.CopyProgress))
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

// amount is what was copied, and what is expected in all. Statistics may be old.
func amount(p *control.CopyProgress) string {
	rows, bytes := rowsText(p.Rows), bytesText(p.Bytes)
	if p.RowsEstimate > p.Rows {
		rows = humanize.Comma(p.Rows) + " of about " + rowsText(p.RowsEstimate)
	}
	if p.BytesEstimate > p.Bytes {
		bytes += " of about " + bytesText(p.BytesEstimate)
	}
	return rows + ", " + bytes
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
	width := math.MaxInt
	if bars {
		width = terminalWidth()
	}
	_, err := io.WriteString(w, copyBody(c, bars, width))
	return err
}

// copyBody are the tables and the sum, on lines of a width.
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
			name += " " + bar(percent)
		}
		b.WriteString(cut(name+" "+rest, width) + "\n")
	}
	for _, t := range tables {
		rest := fmt.Sprintf("%5.1f %%  %s, %s", t.Percent, t.State, amount(&t.CopyProgress))
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

// bar is a bar.
func bar(percent float64) string {
	return pb.New64(barPoints).SetTemplateString(`{{bar . "[" "=" "=" "." "]"}}`).SetWidth(barWidth).SetCurrent(int64(percent / 100 * barPoints)).String()
}

// cut shortens a line to what fits: one that wraps cannot be drawn again in its place.
func cut(line string, width int) string {
	if runes := []rune(line); len(runes) > width {
		return string(runes[:width-1]) + "…"
	}
	return line
}

// terminalWidth is how many characters fit on a line.
func terminalWidth() int {
	if width, err := termutil.TerminalWidth(); err == nil && width >= widthMin {
		return width
	}
	return widthMin
}
