// Command bench measures shardcdc beside what PostgreSQL itself can do, on one machine and in the same run.
//
//	start servers (throw-away, fsync on)
//	for each workload:
//	    tables, publication, one slot for each contender and round     (slots first: each has the whole backlog before it)
//	    build the backlog, end it with a marker row, note where it ends
//	    for each round: for each contender, beginning with another one each time: drain the backlog
//	medians, and ratios of the same round; table, JSON, plot
//
// # Why the numbers can be compared
//
// Every contender reads the same WAL of the same server, from a slot of its own that was made before the first row. Rounds
// alternate, so what the machine does besides is spread over all. A drain begins when the server started the walsender (for
// a stored stream: the target's session), by the server's clock, whoever reads; it ends with a position or a row that is
// known beforehand: the end of the last transaction, or the marker row when it is visible on the target. No drain ends by a
// time-out. Nothing else runs on the servers: autovacuum is off, and the source is not written.
//
// A contender of ours that ends with other rows or transactions than there were fails the run, and so does a target that
// ever shows a state that the source never had (see watch.go). Speed is never asserted.
//
// Every process of ours is a child of this one (see child.go), so that CPU seconds, allocations and memory are told apart.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options say what to run.
type Options struct {
	Workloads  string         // their letters
	Contenders *regexp.Regexp // by name
	Rounds     int            // counted ones
	Warmups    int            // rounds before them
	Size       float64        // 1: the sizes in workloads.go
	Delays     bool           // steady-state delays as well
	DelayTime  time.Duration  // of each of its loads
	Loads      []float64      // parts of the capacity
	Limit      time.Duration  // of each step: nothing hangs for ever
	Out        string         // folder of the reports
	Docs       string         // document that the report in Out is put into; nothing is measured then
}

// limit is for one step.
func (o *Options) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, o.Limit, fmt.Errorf("it took longer than -limit %s", o.Limit))
}

func options(args []string) (o Options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.Workloads, "workloads", "abcdef", "which, by their letters; none: delays only")
	contenders := f.String("contenders", ".", "regular expression of names")
	f.IntVar(&o.Rounds, "rounds", 5, "rounds that count")
	f.IntVar(&o.Warmups, "warmups", 1, "rounds before them")
	f.Float64Var(&o.Size, "size", 1, "part of the full sizes")
	f.BoolVar(&o.Delays, "delays", true, "measure delays under a steady load as well")
	f.DurationVar(&o.DelayTime, "delay-time", 30*time.Second, "duration of each steady load")
	loads := f.String("loads", "10,50,90", "steady loads, in percent of the capacity")
	f.DurationVar(&o.Limit, "limit", 30*time.Minute, "limit of each single step")
	f.StringVar(&o.Out, "out", "bin/bench", "folder of the reports")
	f.StringVar(&o.Docs, "docs", "", "put the report that is in that folder into this document, and measure nothing")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	var errs []error
	if o.Contenders, err = regexp.Compile(*contenders); err != nil {
		errs = append(errs, fmt.Errorf("-contenders: %w", err))
	}
	for load := range strings.SplitSeq(*loads, ",") {
		percent, err := strconv.ParseFloat(load, 64)
		if err != nil || percent <= 0 {
			errs = append(errs, fmt.Errorf("-loads: %q is no percentage. Try: -loads 10,50,90", load))
		}
		o.Loads = append(o.Loads, percent/100)
	}
	for _, letter := range o.Workloads {
		if workload(string(letter)) == nil {
			errs = append(errs, fmt.Errorf("-workloads: there is no %q. Try: letters of %s", letter, letters()))
		}
	}
	if o.Rounds < 1 || o.Warmups < 0 || o.Size <= 0 || f.NArg() > 0 {
		errs = append(errs, fmt.Errorf("rounds %d, warmups %d, size %v, arguments %q: want at least 1, at least 0, more than 0, none",
			o.Rounds, o.Warmups, o.Size, strings.Join(f.Args(), " ")))
	}
	return o, errors.Join(errs...)
}

func main() {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(childMain(role))
	}
	o, err := options(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.Docs != "" {
		err = writeDocs(filepath.Join(o.Out, jsonReport), o.Docs)
	} else {
		err = run(ctx, o, contenders, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
