package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/reading"
	"shardcdc/pipeline/wire"
)

type tailFlags struct {
	fromCSN, toCSN, fromTime string
	fromSeq                  uint64
	follow                   bool
	count                    int
	form                     string
	sql                      format.SQLOptions
}

func tailCommand() *cobra.Command {
	var (
		where stored
		flags tailFlags
	)
	cmd := &cobra.Command{
		Use:   "tail [NAME]",
		Short: "Show the transactions that flow, in their global order",
		Long: `Reads a subscription's stream, of any format and layout, and shows its transactions: a line for each, and below it a line
per change. It begins with what is published from now on; with --from-csn 0 at the stream's beginning. With --follow=false
it ends at the stream's present end, with --to-csn behind that CSN; then it begins at the stream's beginning unless told
otherwise. Rows that were published one by one are shown together, when their transaction is complete.

--format json prints one JSON text per line, in the shape that docs/formats.md describes; docs/inspecting.md says what it is
for streams in the flavour debezium and of the format sql. --format sql prints statements that psql or mysql can be fed with, of
streams of the formats internal and sql (docs/formats.md). It reads and leaves no trace.

Exit codes: 0 shown, or ended by ctrl-C; 1 the stream cannot be read, or there is no such subscription; 2 called in a
wrong way.`,
		Example: "  cdcctl tail bank\n  cdcctl tail bank --from-csn 0 --count 10\n  cdcctl tail bank --from-time 15m --follow=false\n  cdcctl tail bank --follow=false --format json | jq .gid\n  cdcctl tail bank --from-csn 0 --follow=false --format sql --sql-dialect mysql | mysql bank\n  cdcctl tail --file bank.cdc",
		Args:    where.args(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := flags.tail(cmd, &where)
			if err != nil {
				return err
			}
			err = where.open(cmd, firstArg(args, 0), func(ctx context.Context, s *storedStream) error {
				t.stream = s
				return t.run(ctx)
			})
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.fromCSN, "from-csn", "", "begin with the first transaction of this CSN or a higher one; 0: the first of the stream")
	f.StringVar(&flags.toCSN, "to-csn", "", "end behind the last transaction of this CSN or a lower one")
	f.StringVar(&flags.fromTime, "from-time", "", "begin with the first transaction that was stored at this time (2026-11-20T19:00:00Z) or so long ago (15m), or later")
	f.Uint64Var(&flags.fromSeq, "from-seq", 0, "begin at this sequence of the stream, or at the next beginning of a transaction")
	f.BoolVar(&flags.follow, "follow", true, "go on with what is published later")
	f.IntVar(&flags.count, "count", 0, "end after this many transactions; 0: never")
	f.StringVar(&flags.form, "format", "text", "text for people, json for programs, sql for databases")
	f.StringVar(&flags.sql.Dialect, "sql-dialect", "", "of --format sql: postgresql (the default), or mysql (also for MariaDB)")
	f.BoolVar(&flags.sql.Idempotent, "sql-idempotent", false, "of --format sql: statements that may be run again")
	f.BoolVar(&flags.sql.CreateTables, "sql-create-tables", false, "of --format sql: CREATE TABLE IF NOT EXISTS in front of a table's first change")
	where.add(f)
	return cmd
}

// tail makes what the flags ask for.
func (f *tailFlags) tail(cmd *cobra.Command, where *stored) (*tail, error) {
	t := &tail{w: cmd.OutOrStdout(), count: f.count, follow: f.follow && !where.offline()}
	if f.form != "text" && f.form != "json" && f.form != format.SQL {
		return nil, cli.Usagef("--format %q is unknown. Try: --format text, --format json or --format sql", f.form)
	}
	t.form, t.sql = f.form, f.sql
	choices := format.Format{SQL: f.sql}
	if f.form == format.SQL {
		choices.Name = format.SQL
	}
	if err := choices.Validate(); err != nil {
		return nil, cli.Usagef("%w", err)
	}
	if f.count < 0 {
		return nil, cli.Usagef("--count %d is negative", f.count)
	}
	given := 0
	for _, name := range []string{"from-csn", "from-time", "from-seq"} {
		if cmd.Flags().Changed(name) {
			given++
		}
	}
	if given > 1 {
		return nil, cli.Usagef("--from-csn, --from-time and --from-seq exclude each other")
	}
	var err error
	if t.from.CSN, err = csnFlag("from-csn", f.fromCSN); err != nil {
		return nil, err
	}
	if t.to, err = csnFlag("to-csn", f.toCSN); err != nil {
		return nil, err
	}
	if t.from.Time, err = timeFlag("from-time", f.fromTime, time.Now()); err != nil {
		return nil, err
	}
	t.from.Seq = pipeline.Seq(f.fromSeq)
	t.from.Now = given == 0 && t.follow && t.to == 0
	return t, nil
}

// csnFlag reads a CSN; empty is 0.
func csnFlag(name, text string) (pipeline.CSN, error) {
	if text == "" {
		return 0, nil
	}
	csn, err := pipeline.ParseCSN(text)
	if err != nil {
		return 0, cli.Usagef("--%s: %w", name, err)
	}
	return csn, nil
}

// timeFlag reads a time, or how long ago it was; empty is zero.
func timeFlag(name, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return at, cli.Usagef("--%s %q: want a time, or how long ago. Try: --%s 2026-11-20T19:00:00Z or --%s 15m", name, text, name, name)
	}
	return at, nil
}

// tail shows one stream.
type tail struct {
	stream *storedStream
	from   reading.Position
	to     pipeline.CSN // 0: no end
	follow bool
	count  int
	form   string
	sql    format.SQLOptions
	w      io.Writer

	shown int
}

func (t *tail) run(ctx context.Context) error {
	show, err := newShower(t.form, t.stream.sub)
	if t.form == format.SQL {
		show, err = newStatements(t.sql, t.stream.sub)
	}
	if err != nil {
		return err
	}
	return t.stream.each(ctx, reading.NewReader(t.stream.sub, reading.BytesMax), t.from, t.to, t.follow, func(tx *reading.Transaction) error {
		text, err := show(tx)
		if err != nil {
			return err
		}
		if _, err := t.w.Write(text); err != nil {
			return err
		}
		if t.shown++; t.shown == t.count {
			return reading.ErrStop
		}
		return nil
	})
}

// each calls fn with every transaction from a position on, up to a CSN (0: without end), until it returns reading.ErrStop.
func (s *storedStream) each(ctx context.Context, reader *reading.Reader, from reading.Position, to pipeline.CSN, follow bool, fn func(*reading.Transaction) error) error {
	first, err := reading.First(ctx, s.source, from)
	if err != nil {
		return err
	}
	return s.source.Read(ctx, first, follow, func(m *reading.Message) error {
		txs, err := reader.Add(m)
		if err != nil {
			return err
		}
		for _, tx := range txs {
			if to > 0 && tx.CSN > to {
				return reading.ErrStop
			}
			if !from.Includes(tx) {
				continue
			}
			if err := fn(tx); err != nil {
				return err
			}
		}
		if reached, err := passed(m, to); err != nil || reached {
			if err != nil {
				return err
			}
			return reading.ErrStop
		}
		return nil
	})
}

// passed says that nothing up to a CSN will follow a message.
func passed(m *reading.Message, to pipeline.CSN) (bool, error) {
	text := m.Header.Get(wire.HeaderWatermark)
	if to == 0 || text == "" {
		return false, nil
	}
	watermark, err := pipeline.ParseCSN(text)
	return err == nil && watermark >= to, err
}
