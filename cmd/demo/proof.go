package demo

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"shardcdc/pipeline/bank"
)

// prove prints what was found. Its error says what does not hold.
func (d *demo) prove(diff bank.Difference) error {
	stats, meter := d.bank.Stats(), d.bank.Meter()
	caughtUp := meter.CaughtUp(d.killed, caughtUpWithin)
	all := meter.Delays(nil)
	calm := meter.Delays(func(acked, seen time.Time) bool { return seen.Before(d.killed) || acked.After(caughtUp) })
	d.Log.Info("delays", "p50", calm.Quantile(0.5), "p90", calm.Quantile(0.9), "p95", calm.Quantile(0.95), "p99", calm.Quantile(0.99), "most", calm.Quantile(1))
	say := func(what, format string, args ...any) {
		d.screen.line("  %-30s %s", what, fmt.Sprintf(format, args...))
	}
	d.screen.line("")
	d.screen.line("PROOF")
	say("transactions committed", "%s", humanize.Comma(stats.Transactions))
	say("  across shards", "%s by two-phase commit; %s more rolled back after PREPARE", humanize.Comma(stats.Distributed), humanize.Comma(stats.RolledBack))
	say("  left by their coordinator", "%d between the two phases, finished %s later by somebody else", stats.Abandoned, inDoubt)
	say("node killed with SIGKILL", "once; the target stood still for %s", round(meter.Gap(d.killed, caughtUp)))
	say("snapshots of the target", "%s while the traffic ran: in each the same money, no half transfer, no gap", humanize.Comma(d.watch.Snapshots()))
	say("delay, commit to visible", "p50 %s, p99 %s", round(calm.Quantile(0.50)), round(calm.Quantile(0.99)))
	say("  with the take-over", "p50 %s, p99 %s", round(all.Quantile(0.50)), round(all.Quantile(0.99)))
	say("  how it was measured", "%d markers, each a two-phase commit over all %d shards: from the client's", len(all), shards)
	say("", "acknowledgement to the first sight on the target, polled every few ms, at %d tx/s", rate)
	say("rows compared", "%s in %d tables, every column as text", humanize.Comma(diff.Rows), len(bank.Tables))
	say("differences", "%s", humanize.Comma(diff.Count))
	for _, e := range diff.Examples {
		d.screen.line("    %s", e)
	}
	d.screen.line("")
	switch {
	case diff.Count > 0:
		return fmt.Errorf("%d differences between the shards and the target", diff.Count)
	case diff.Rows == 0 || len(all) == 0 || d.watch.Snapshots() == 0:
		return fmt.Errorf("nothing was proved: %d rows, %d markers, %d snapshots", diff.Rows, len(all), d.watch.Snapshots())
	case int64(len(all)) != stats.Markers:
		return fmt.Errorf("%d markers were acknowledged, %d were seen on the target", stats.Markers, len(all))
	}
	d.screen.line("0 differences: source and target are equal, every transaction whole and once.")
	return nil
}
