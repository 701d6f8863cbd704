package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline"
	"shardcdc/pipeline/reading"
)

// delays is the JSON form of durations.
type delays struct {
	Subscription string       `json:"subscription"`
	Transactions int          `json:"transactions"`
	FirstCSN     pipeline.CSN `json:"first_csn"`
	LastCSN      pipeline.CSN `json:"last_csn"`
	Steps        []step       `json:"steps"`
	Slowest      []slow       `json:"slowest"` // longest from committed to stored first
}

// step is the time from one stage to another.
type step struct {
	From         string       `json:"from"`
	To           string       `json:"to"`
	Target       string       `json:"target,omitempty"`
	Transactions int          `json:"transactions"` // of which both times are known
	P50          float64      `json:"p50_seconds"`
	P99          float64      `json:"p99_seconds"`
	Max          float64      `json:"max_seconds"`
	MaxCSN       pipeline.CSN `json:"max_csn"`
	Negative     int          `json:"negative"` // earlier by one clock than by the other

	spread spread
	log    *targetLog // of a step to applied
}

// slow is a transaction that took long.
type slow struct {
	CSN     pipeline.CSN    `json:"csn"`
	GID     json.RawMessage `json:"gid"`
	Changes int             `json:"changes"`
	Seconds float64         `json:"seconds"` // from committed to stored
}

// slowestMax is how many of the slowest are listed.
const slowestMax = 10

func durationsCommand() *cobra.Command {
	var (
		where          stored
		out            output
		fromCSN, toCSN string
		last           time.Duration
	)
	cmd := &cobra.Command{
		Use:   "durations [NAME]",
		Short: "Show how long transactions took from stage to stage",
		Long: `Reads a range of a subscription's stream and shows how long its transactions took from one stage of their way to the next:
committed, taken from the joiner, stored in JetStream, applied by each target. For each step the median, the 99th percentile, the
longest and its CSN; and the transactions that took longest. What a worker does not remember of its target is left out.

A step between two clocks (the shard's, the node's, the NATS server's, the worker's) is as exact as these agree; NEGATIVE counts the
transactions for which the later stage seems to be earlier.

The range is the last hour, or --last, or from --from-csn to --to-csn; offline it is everything.

Exit codes: 0 shown; 1 the stream cannot be read; 2 called in a wrong way.`,
		Example: "  cdcctl durations bank --last 10m\n  cdcctl durations bank --from-csn 3469010534391808000 -o json\n  cdcctl durations --file bank.cdc",
		Args:    where.args(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			var from reading.Position
			if from.CSN, err = csnFlag("from-csn", fromCSN); err != nil {
				return err
			}
			to, err := csnFlag("to-csn", toCSN)
			if err != nil {
				return err
			}
			ranged := fromCSN != "" || toCSN != ""
			switch {
			case ranged && cmd.Flags().Changed("last"):
				return cli.Usagef("--last and a range of CSNs exclude each other")
			case last <= 0:
				return cli.Usagef("--last %s: want a time. Try: --last 1h", last)
			case !ranged && (!where.offline() || cmd.Flags().Changed("last")):
				from.Time = time.Now().Add(-last)
			}
			return where.open(cmd, firstArg(args, 0), func(ctx context.Context, s *storedStream) error {
				d, err := measure(ctx, s, from, to)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), d)
				}
				return d.print(cmd.OutOrStdout())
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&fromCSN, "from-csn", "", "begin with the first transaction of this CSN or a higher one")
	f.StringVar(&toCSN, "to-csn", "", "end with the last transaction of this CSN or a lower one")
	f.DurationVar(&last, "last", time.Hour, "transactions that were stored within this time")
	out.add(f)
	where.add(f)
	return cmd
}

// measure reads a range.
func measure(ctx context.Context, s *storedStream, from reading.Position, to pipeline.CSN) (*delays, error) {
	logs, err := targetLogs(ctx, s, from.CSN, max(to, 1<<63))
	if err != nil {
		return nil, err
	}
	d := newDelays(s.sub.Name, logs)
	err = s.each(ctx, reading.NewHeadReader(s.sub), from, to, false, func(t *reading.Transaction) error { return d.add(t) })
	d.close()
	return d, err
}

// Stages of a transaction's way.
const (
	committed = "committed"
	taken     = "taken"
	inStream  = "stored"
	onTarget  = "applied"
)

// newDelays: the steps are in the order in which they are shown, and measured in add.
func newDelays(subscription string, logs []targetLog) *delays {
	d := &delays{Subscription: subscription, Slowest: []slow{}, Steps: []step{
		{From: committed, To: taken}, {From: taken, To: inStream}, {From: committed, To: inStream},
	}}
	for i := range logs {
		l := &logs[i]
		d.Steps = append(d.Steps, step{From: inStream, To: onTarget, Target: l.target, log: l}, step{From: committed, To: onTarget, Target: l.target, log: l})
	}
	return d
}

func (d *delays) add(t *reading.Transaction) error {
	at, err := commitTime(t)
	if err != nil {
		return err
	}
	if d.Transactions == 0 {
		d.FirstCSN = t.CSN
	}
	d.Transactions++
	d.LastCSN = t.CSN
	times := map[string]time.Time{committed: at, taken: t.Taken, inStream: t.Stored}
	for i := range d.Steps {
		st := &d.Steps[i]
		begin, end := times[st.From], times[st.To]
		if st.log != nil {
			end = st.log.part.When(t.CSN)
		}
		if !begin.IsZero() && !end.IsZero() {
			st.spread.add(end.Sub(begin), t.CSN)
		}
	}
	if !at.IsZero() {
		d.note(slow{CSN: t.CSN, GID: t.GID, Changes: t.Total, Seconds: t.Stored.Sub(at).Seconds()})
	}
	return nil
}

// note keeps the slowest.
func (d *delays) note(s slow) {
	if n := len(d.Slowest); n == slowestMax && s.Seconds <= d.Slowest[n-1].Seconds {
		return
	}
	at, _ := slices.BinarySearchFunc(d.Slowest, s.Seconds, func(have slow, seconds float64) int {
		if have.Seconds >= seconds {
			return -1
		}
		return 1
	})
	d.Slowest = slices.Insert(d.Slowest, at, s)
	d.Slowest = d.Slowest[:min(len(d.Slowest), slowestMax)]
}

func (d *delays) close() {
	for i := range d.Steps {
		st := &d.Steps[i]
		if st.Transactions, st.Negative = st.spread.n, st.spread.below; st.Transactions == 0 {
			continue
		}
		st.P50, st.P99 = st.spread.percentile(50).Seconds(), st.spread.percentile(99).Seconds()
		st.Max, st.MaxCSN = st.spread.longest.Seconds(), st.spread.csn
	}
}

func (d *delays) print(w io.Writer) error {
	if d.Transactions == 0 {
		_, err := fmt.Fprintln(w, "There is no transaction in this range. Try: --last 24h, or --from-csn 0")
		return err
	}
	fmt.Fprintf(w, "%s, csn %s to %s\n", plural(d.Transactions, "transaction"), d.FirstCSN, d.LastCSN)
	lines := []string{"", cells("FROM", "TO", "TRANSACTIONS", "P50", "P99", "MAX", "CSN OF MAX", "NEGATIVE")}
	for _, s := range d.Steps {
		to := s.To
		if s.Target != "" {
			to += " on " + s.Target
		}
		if s.Transactions == 0 {
			lines = append(lines, cells(s.From, to, 0, "", "", "", "", ""))
			continue
		}
		lines = append(lines, cells(s.From, to, s.Transactions, span(s.P50), span(s.P99), span(s.Max), s.MaxCSN, s.Negative))
	}
	lines = append(lines, "", cells("SLOWEST TO BE STORED", "AFTER COMMIT", "CHANGES", "GID"))
	for _, s := range d.Slowest {
		gid := string(s.GID)
		if gid == "null" {
			gid = ""
		}
		lines = append(lines, cells(s.CSN, span(s.Seconds), s.Changes, gid))
	}
	return table(w, lines...)
}
