package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline"
	"shardcdc/pipeline/reading"
	"shardcdc/pipeline/wire"
)

// oneTransaction is the JSON form of show.
type oneTransaction struct {
	reading.Head
	Tables   []tableChanges `json:"tables"`
	First    pipeline.Seq   `json:"first_seq"`
	Last     pipeline.Seq   `json:"last_seq"`
	Messages int            `json:"messages"`
	UnitEnd  pipeline.Seq   `json:"unit_end_seq"`
	Stages   []stage        `json:"stages"`
}

// tableChanges are the changes of one table, by kind.
type tableChanges struct {
	Table   string         `json:"table"` // schema.table
	Changes map[string]int `json:"changes"`
}

func showCommand() *cobra.Command {
	var (
		where stored
		out   output
	)
	cmd := &cobra.Command{
		Use:   "show [NAME] CSN",
		Short: "Show what is known of one transaction: where it came from, its size, and when it was where",
		Long: `Shows one transaction of a subscription's stream: its global id, the shards with their transaction numbers, positions and
changes, the tables, its messages in the stream, and the stages of its way: committed (by the shard's clock), taken from the joiner
(the node's), stored in JetStream (the NATS server's), applied by each target (the worker's, as far back as it remembers). What it
did to each row shows cdcctl tail NAME --from-csn CSN --count 1.

Exit codes: 0 shown; 1 the stream does not have it; 2 called in a wrong way.`,
		Example: "  cdcctl show bank 3469010534391808000\n  cdcctl show --file bank.cdc 3469010534391808000 -o json",
		Args:    where.args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			csn, err := pipeline.ParseCSN(args[len(args)-1])
			if err != nil {
				return cli.UsageError{Err: err}
			}
			return where.open(cmd, firstArg(args, 1), func(ctx context.Context, s *storedStream) error {
				one, err := findOne(ctx, s, csn)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), one)
				}
				return one.print(cmd.OutOrStdout())
			})
		},
	}
	out.add(cmd.Flags())
	where.add(cmd.Flags())
	return cmd
}

// findOne finds a transaction and what is known of it.
func findOne(ctx context.Context, s *storedStream, csn pipeline.CSN) (one oneTransaction, err error) {
	var found, next *reading.Transaction
	err = s.each(ctx, reading.NewReader(s.sub, reading.BytesMax), reading.Position{CSN: csn}, 0, false, func(t *reading.Transaction) error {
		if t.CSN == csn {
			found = t
		} else {
			next = t
		}
		return reading.ErrStop
	})
	switch {
	case err != nil:
		return one, err
	case found == nil && next != nil:
		return one, fmt.Errorf("the stream has no transaction of csn %s: the next one is csn %s. Try: cdcctl tail %s --from-csn %s --count 1", csn, next.CSN, s.sub.Name, csn)
	case found == nil:
		return one, fmt.Errorf("the stream has no transaction of csn %s or a higher one. Try: cdcctl status %s", csn, s.sub.Name)
	}
	logs, err := targetLogs(ctx, s, csn, csn)
	if err != nil {
		return one, err
	}
	one = oneTransaction{Head: found.Head, First: found.First, Last: found.Last, Messages: found.Messages, UnitEnd: found.UnitEnd}
	if one.Stages, err = stagesOf(found, logs); err != nil {
		return one, err
	}
	one.Tables, err = tablesOf(found, wire.SubjectOf(s.sub.Name, ""))
	return one, err
}

// tablesOf counts changes by table. Of a transaction that is too large, and of SQL, the stream tells less, or nothing.
func tablesOf(t *reading.Transaction, subjects string) ([]tableChanges, error) {
	count := map[string]map[string]int{}
	add := func(table, kind string, n int) {
		if count[table] == nil {
			count[table] = map[string]int{}
		}
		count[table][kind] += n
	}
	switch {
	case t.Rows != nil:
		if err := countRows(t.Rows, add); err != nil {
			return nil, fmt.Errorf("csn %s: %w", t.CSN, err)
		}
	case t.JSON != nil:
		parsed, err := parseTransaction(t.JSON)
		if err != nil {
			return nil, err
		}
		for i := range parsed.Changes {
			c := &parsed.Changes[i]
			switch c.Op {
			case "insert", "update", "delete", "read":
				add(c.Schema+"."+c.Table, c.Op, 1)
			case "truncate":
				for _, of := range c.Tables {
					add(of.Schema+"."+of.Table, c.Op, 1)
				}
			}
		}
	case t.Parts != nil:
		for _, r := range t.Parts.Rows {
			if name := strings.TrimPrefix(r.Subject, subjects); !strings.HasPrefix(name, "_") && !r.Tombstone {
				add(subjectTable(name), "events", 1)
			}
		}
	default:
		for _, of := range t.Tables {
			add(of.Schema+"."+of.Table, "changes", of.Changes)
		}
	}
	tables := []tableChanges{}
	for name, changes := range count {
		tables = append(tables, tableChanges{name, changes})
	}
	slices.SortFunc(tables, func(a, b tableChanges) int { return strings.Compare(a.Table, b.Table) })
	return tables, nil
}

// subjectTable is the table of a subject's last tokens; a name that was cut there stays as it is.
func subjectTable(tokens string) string {
	schema, table, _ := strings.Cut(tokens, ".")
	name := func(token string) string {
		if n, err := wire.DecodeToken(token); err == nil {
			return n
		}
		return token
	}
	return name(schema) + "." + name(table)
}

func countRows(tx *pipeline.Transaction, add func(table, kind string, n int)) error {
	kinds := map[pipeline.Op]string{pipeline.Insert: "insert", pipeline.Update: "update", pipeline.Delete: "delete", pipeline.Read: "read"}
	for _, f := range tx.Fragments {
		err := f.Walk(func(c *pipeline.Change) error {
			if kind, ok := kinds[c.Op]; ok {
				add(c.Relation.String(), kind, 1)
			}
			for _, r := range c.Truncated {
				add(r.String(), "truncate", 1)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *oneTransaction) print(w io.Writer) error {
	fmt.Fprintf(w, "csn %s, after csn %s", o.CSN, o.Previous)
	if len(o.GID) > 0 && string(o.GID) != "null" {
		fmt.Fprintf(w, ", gid %s", o.GID)
	}
	large := ""
	if o.TooLarge {
		large = "; too large to be read whole"
	}
	fmt.Fprintf(w, "\n  %s, %s%s\n  stream sequence %d to %d (%s); its unit ends at %d\n", plural(o.Total, "change"), bytesText(o.Bytes), large,
		o.First, o.Last, plural(o.Messages, "message"), o.UnitEnd)
	if err := o.printFragments(w); err != nil {
		return err
	}
	if len(o.Tables) > 0 {
		lines := []string{cells("TABLE", "CHANGES")}
		for _, t := range o.Tables {
			lines = append(lines, cells(t.Table, kindsText(t.Changes)))
		}
		if err := table(w, append([]string{""}, lines...)...); err != nil {
			return err
		}
	}
	lines := []string{"", cells("STAGE", "AT", "AFTER COMMIT", "CLOCK OF")}
	for _, s := range o.Stages {
		name, at, after := s.Stage, s.Note, ""
		if s.Target != "" {
			name += " on " + s.Target
		}
		if s.At != nil {
			at = s.At.Format("2006-01-02T15:04:05.000000Z")
		} else if at == "" {
			at = "not known"
		}
		if s.Seconds != nil && s.Stage != "committed" {
			after = span(*s.Seconds)
		}
		lines = append(lines, cells(name, at, after, s.Clock))
	}
	return table(w, lines...)
}

func (o *oneTransaction) printFragments(w io.Writer) error {
	if len(o.Fragments) == 0 {
		return nil
	}
	lines := []string{"", cells("SHARD", "XID", "LSN", "CHANGES", "ORIGIN")}
	for _, f := range o.Fragments {
		lines = append(lines, cells(f.Shard, f.XID, f.LSN, f.Changes, originText(f.Origin)))
	}
	return table(w, lines...)
}

func originText(origin json.RawMessage) string { return strings.Trim(string(origin), `"`) }

// kindsText lists kinds of changes, and how many there are.
func kindsText(changes map[string]int) string {
	var parts []string
	for _, kind := range []string{"insert", "update", "delete", "read", "truncate", "events", "changes"} {
		if n := changes[kind]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, kind))
		}
	}
	return strings.Join(parts, ", ")
}

// span is a time between two stages, to the microsecond where that says something.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d.Abs() < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d.Abs() < time.Second:
		return d.Round(10 * time.Microsecond).String()
	case d.Abs() < time.Minute:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
