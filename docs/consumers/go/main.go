// Command consumer is a consumer to copy from. From the stream of a subscription with --format json it takes every transaction
// of the source once, whole and in order, whatever is killed. What it does with them is in balances.go.
//
//   - Its position is a row of its own database, written in the transaction that writes what the position stands for. So it
//     needs nothing durable on the NATS server: it reads with an ordered consumer, from behind the position.
//   - It acts on nothing before the message that ends the unit.
//   - previous of each transaction must be the csn of the one before: nothing is missing, and nothing comes twice.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	url := flag.String("nats", nats.DefaultURL, "NATS server; NATS_USER and NATS_PASSWORD in the environment, where it wants them")
	name := flag.String("subscription", "bank", "subscription")
	dsn := flag.String("dsn", "postgres://localhost/consumer", "database of the consumer")
	behind := flag.Uint64("behind-csn", 0, "the database has everything up to this CSN: for its first start, and until it has got further")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *url, *name, *dsn, *behind); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "consumer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url, name, dsn string, behind uint64) error {
	db, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.CustomInboxPrefix("_INBOX_reader"),
		nats.UserInfo(os.Getenv("NATS_USER"), os.Getenv("NATS_PASSWORD")))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	c := &consumer{db: db, stream: "CDC_" + name, epochs: "cdc." + name + "._ctl.epoch", behind: behind}
	transactions := "cdc." + name + "._tx"
	err = c.load(ctx, func() (position, error) {
		if behind == 0 {
			return position{csn: "0"}, nil
		}
		stream, err := js.Stream(ctx, c.stream)
		if err != nil {
			return position{}, err
		}
		return behindCSN(ctx, stream, transactions, behind)
	})
	if err != nil {
		return err
	}
	ordered, err := js.OrderedConsumer(ctx, c.stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{transactions, c.epochs},
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:    c.seq + 1,
	})
	if err != nil {
		return err
	}
	messages, err := ordered.Messages(jetstream.PullMaxBytes(8 << 20)) // in bytes: a message may have 2 MB
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		if err := c.take(ctx, m); err != nil {
			return err
		}
	}
}

// transaction is what the consumer needs of a transaction's JSON text.
type transaction struct {
	CSN, Previous string // decimal numbers: they may be too large for a double
	Changes       []change
}

type consumer struct {
	db     *pgx.Conn
	stream string
	epochs string // subject of the writers' epochs
	behind uint64 // transactions up to here are in the database already
	position
	parts   int // of an unfinished payload
	payload []byte
	unit    []transaction // that did not end yet
}

// take takes the next message.
func (c *consumer) take(ctx context.Context, m jetstream.Msg) error {
	if m.Subject() == c.epochs { // a new writer: what the one before it did not finish comes again
		c.parts, c.payload, c.unit = 0, nil, nil
		return nil
	}
	part, of := 1, 1
	if header := m.Headers().Get("Cdc-Part"); header != "" {
		if _, err := fmt.Sscanf(header, "%d/%d", &part, &of); err != nil {
			return fmt.Errorf("Cdc-Part %q: %w", header, err)
		}
	}
	if part == 1 {
		c.parts, c.payload = 0, nil
	}
	if part != c.parts+1 {
		return fmt.Errorf("part %d follows part %d", part, c.parts)
	}
	c.parts, c.payload = part, append(c.payload, m.Data()...) // all of it in memory: see "Large transactions" in consumers.md
	if part < of {
		return nil
	}
	var tx transaction
	if err := json.Unmarshal(c.payload, &tx); err != nil {
		return fmt.Errorf("a transaction: %w", err)
	}
	c.parts, c.payload, c.unit = 0, nil, append(c.unit, tx)
	if m.Headers().Get("Cdc-Checkpoint") == "" {
		return nil // the unit goes on
	}
	at, err := m.Metadata()
	if err != nil {
		return err
	}
	return c.commit(ctx, at.Sequence.Stream)
}
