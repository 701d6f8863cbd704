package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/wire"
)

// Limits of reading a stream.
const (
	pullBytes    = 8 << 20  // in flight; a limit in messages hangs on large ones
	unitBytesMax = 64 << 20 // of one unit put together from parts; of a larger one the head is shown
)

type tailFlags struct {
	fromCSN string
	fromSeq uint64
	follow  bool
	count   int
	form    string
}

func tailCommand() *cobra.Command {
	var (
		bus   cli.NATS
		flags tailFlags
	)
	cmd := &cobra.Command{
		Use:   "tail NAME",
		Short: "Show the transactions that flow, in their global order",
		Long: `Reads a subscription's stream, of either format, and shows its transactions: a line for each, and below it a line per
change. It begins with what is published from now on; with --from-csn 0 at the stream's beginning. With --follow=false
it ends at the stream's present end, and begins at its beginning unless told otherwise.

--format json prints one JSON text per line, in the shape that docs/formats.md describes. It reads and leaves no trace.

Exit codes: 0 shown, or ended by ctrl-C; 1 the stream cannot be read, or there is no such subscription; 2 called in a
wrong way.`,
		Example: "  cdcctl tail bank\n  cdcctl tail bank --from-csn 0 --count 10\n  cdcctl tail bank --follow=false --format json | jq .gid",
		Args:    cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := flags.start(cmd)
			if err != nil {
				return err
			}
			return session(cmd, &bus, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
				e, err := catalog.Get(ctx, args[0])
				if err != nil {
					return err
				}
				t := &tail{bus: bus, sub: e.Subscription, from: from, flags: flags, w: cmd.OutOrStdout()}
				if err := t.run(ctx); !errors.Is(err, context.Canceled) {
					return err
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.fromCSN, "from-csn", "", "begin with the first transaction of this CSN or a higher one; 0: the first of the stream")
	f.Uint64Var(&flags.fromSeq, "from-seq", 0, "begin at this sequence of the stream, or at the next beginning of a transaction")
	f.BoolVar(&flags.follow, "follow", true, "go on with what is published later")
	f.IntVar(&flags.count, "count", 0, "end after this many transactions; 0: never")
	f.StringVar(&flags.form, "format", "text", "text for people, json for programs")
	bus.Add(f, cli.DefaultURL)
	return cmd
}

// position is where to begin: exactly one of them.
type position struct {
	csn   pipeline.CSN
	seq   uint64 // 0: by csn
	isNow bool
}

func (t *tailFlags) start(cmd *cobra.Command) (p position, err error) {
	if t.form != "text" && t.form != "json" {
		return p, cli.Usagef("--format %q is unknown. Try: --format text or --format json", t.form)
	}
	if t.count < 0 {
		return p, cli.Usagef("--count %d is negative", t.count)
	}
	switch {
	case t.fromCSN != "" && cmd.Flags().Changed("from-seq"):
		return p, cli.Usagef("--from-csn and --from-seq exclude each other")
	case t.fromCSN != "":
		if p.csn, err = pipeline.ParseCSN(t.fromCSN); err != nil {
			return p, cli.Usagef("--from-csn: %w", err)
		}
	case t.fromSeq > 0:
		p.seq = t.fromSeq
	default:
		p.isNow = t.follow
	}
	return p, nil
}

// tail reads one stream.
type tail struct {
	bus   *control.Bus
	sub   *control.Subscription
	from  position
	flags tailFlags
	w     io.Writer

	reader unitReader
	shown  int
}

func (t *tail) run(ctx context.Context) error {
	name := wire.StreamName(t.sub.Name)
	stream, err := t.bus.JS.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("stream %s is gone. Try: restore it, or cdcctl drop-subscription %s and create it again", name, t.sub.Name)
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	state := stream.CachedInfo().State
	first, err := t.first(ctx, stream, state)
	if err != nil {
		return err
	}
	if !t.flags.follow && first > state.LastSeq {
		return nil
	}
	consumer, err := t.bus.JS.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first,
	})
	if err != nil {
		return fmt.Errorf("read stream %s: %w", name, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxBytes(pullBytes))
	if err != nil {
		return fmt.Errorf("read stream %s: %w", name, err)
	}
	defer messages.Stop()
	t.reader = newUnitReader(t.sub, unitBytesMax)
	return t.read(ctx, messages, state.LastSeq)
}

func (t *tail) read(ctx context.Context, messages jetstream.MessagesContext, last uint64) error {
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		txs, err := t.reader.add(msg.Subject(), msg.Headers(), msg.Data())
		if err != nil {
			return fmt.Errorf("stream sequence %d: %w", meta.Sequence.Stream, err)
		}
		for _, tx := range txs {
			if done, err := t.show(tx); err != nil || done {
				return err
			}
		}
		if !t.flags.follow && meta.Sequence.Stream >= last {
			return nil
		}
	}
}

// show prints one transaction; done says that it was the last one wanted.
func (t *tail) show(tx []byte) (done bool, err error) {
	parsed, err := parseTransaction(tx)
	if err != nil {
		return false, err
	}
	if parsed.CSN < t.from.csn {
		return false, nil
	}
	if t.flags.form == "json" {
		_, err = t.w.Write(append(bytes.Clone(tx), '\n'))
	} else {
		_, err = io.WriteString(t.w, parsed.text())
	}
	t.shown++
	return t.flags.count > 0 && t.shown >= t.flags.count, err
}

// first finds the sequence to begin at: the first message of a payload.
func (t *tail) first(ctx context.Context, stream jetstream.Stream, state jetstream.StreamState) (uint64, error) {
	low := max(1, state.FirstSeq)
	switch {
	case t.from.isNow:
		return state.LastSeq + 1, nil
	case t.from.seq > 0:
		return max(low, t.from.seq), nil
	case t.from.csn == 0:
		return low, nil
	}
	// Headers carry rising CSNs: the first message at or above the wanted one is searched by halves.
	high := state.LastSeq + 1
	for low < high {
		middle := low + (high-low)/2
		at, seq, err := csnFrom(ctx, stream, middle, high)
		if err != nil {
			return 0, err
		}
		if seq < high && at < t.from.csn {
			low = seq + 1
		} else {
			high = middle
		}
	}
	return t.payloadStart(ctx, stream, low, state.LastSeq)
}

// csnFrom reads the CSN of the first message from seq on that has one, below end.
func csnFrom(ctx context.Context, stream jetstream.Stream, seq, end uint64) (pipeline.CSN, uint64, error) {
	for ; seq < end; seq++ {
		m, err := stream.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read stream sequence %d: %w", seq, err)
		}
		if text := m.Header.Get(wire.HeaderCSN); text != "" {
			csn, err := pipeline.ParseCSN(text)
			return csn, seq, err
		}
	}
	return 0, end, nil
}

// payloadStart goes back to the first part of a payload.
func (t *tail) payloadStart(ctx context.Context, stream jetstream.Stream, seq, last uint64) (uint64, error) {
	if seq > last {
		return seq, nil
	}
	m, err := stream.GetMsg(ctx, seq)
	if err != nil {
		return 0, fmt.Errorf("read stream sequence %d: %w", seq, err)
	}
	return seq - uint64(max(0, partOf(m.Header)-1)), nil
}

// partOf is the number of a part; 0 for a payload in one message.
func partOf(h nats.Header) int {
	k, _, err := wire.ParsePart(h.Get(wire.HeaderPart))
	if err != nil {
		return 0
	}
	return k
}
