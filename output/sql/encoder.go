package sql

import (
	"fmt"
	"io"
	"strconv"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/moves"
)

// Policies for a TRUNCATE that ran on some shards only, while the tables that the statements are for hold the rows of all.
const (
	TruncateStop   = "stop"   // an error is raised; the default
	TruncateApply  = "apply"  // the table is emptied
	TruncateIgnore = "ignore" // a comment says it
)

// Config is what an Encoder has to know.
type Config struct {
	Shards   []string // names, by ShardID
	Options  format.SQLOptions
	Truncate string // TruncateStop, TruncateApply, TruncateIgnore
}

// Encoder writes one payload per transaction; it is an output.Encoder. What it remembers of earlier transactions are the tables that
// it made (Options.CreateTables), and those without a key that are being copied.
type Encoder struct {
	conf    Config
	dialect dialect
	tables  tables
	created map[string]bool // by the name as it is written
	copies  copies

	texts output.Texts
	write func(tx *pipeline.Transaction, previous pipeline.CSN) error // resident

	// Of the running Encode, or of the large payload that is written.
	out      io.Writer // where the buffer goes when it is full; nil: it grows
	buf      []byte
	plan     *plan
	pass     moves.Fate // what is written now: First or InOrder
	fragment int
	of       *pipeline.Fragment
	index    int    // of the next change in the fragment
	path     string // table.path that is in force; empty: that of the session
	walker   pipeline.Walker
	each     func(*pipeline.Change) error // next
	old, new []pipeline.Value
}

var _ output.Encoder = (*Encoder)(nil)

// New makes an Encoder. Its options must be valid, with their defaults.
func New(conf Config) *Encoder {
	e := &Encoder{conf: conf, dialect: dialectOf(conf.Options), created: make(map[string]bool), copies: make(copies)}
	e.tables.dialect = e.dialect
	e.each, e.write = e.next, e.resident
	return e
}

// Settings are statements, a line each, for the beginning of a session that is to run the payloads.
func Settings(dialect string) string {
	return dialectOf(format.SQLOptions{Dialect: dialect}).settings()
}

// Encode writes the batch's transactions, each as one payload.
func (e *Encoder) Encode(b *pipeline.Batch) ([]output.Payload, error) {
	if len(b.Transactions) == 0 {
		return nil, nil
	}
	for _, tx := range b.Transactions {
		if !tx.Resident() {
			return e.large(b)
		}
	}
	return e.texts.Encode(b, &e.buf, e.write)
}

// resident writes a transaction that is in memory.
func (e *Encoder) resident(tx *pipeline.Transaction, previous pipeline.CSN) error {
	p, err := e.prepare(tx, previous)
	if err == nil {
		err = e.transaction(tx, previous, p)
	}
	return failed(tx, err)
}

// failed names the transaction of an error.
func failed(tx *pipeline.Transaction, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("encode csn %s as sql: %w", tx.CSN, err)
}

// transaction writes a payload.
func (e *Encoder) transaction(tx *pipeline.Transaction, previous pipeline.CSN, p *plan) error {
	e.plan, e.path = p, ""
	e.head(tx, previous)
	e.buf = append(e.buf, p.before...)
	e.buf = append(e.buf, e.dialect.begin()...)
	e.buf = append(e.buf, p.first...)
	if p.moved != nil {
		if err := e.changes(tx, moves.First); err != nil {
			return err
		}
	}
	if err := e.changes(tx, moves.InOrder); err != nil {
		return err
	}
	e.buf = append(e.buf, "COMMIT;\n-- end "...)
	e.buf = append(append(e.buf, tx.CSN.String()...), '\n')
	return nil
}

// head is the comment in front.
func (e *Encoder) head(tx *pipeline.Transaction, previous pipeline.CSN) {
	b := strconv.AppendUint(append(e.buf, "-- csn "...), uint64(tx.CSN), 10)
	b = strconv.AppendUint(append(b, " previous "...), uint64(previous), 10)
	b = append(append(b, " committed "...), tx.CommitTime.String()...)
	if tx.GID != "" {
		b = appendQuoted(append(b, " gid "...), tx.GID)
	}
	b = append(b, '\n')
	for _, f := range tx.Fragments {
		b = appendQuoted(append(b, "-- shard "...), e.conf.Shards[f.Shard])
		b = strconv.AppendUint(append(b, " xid "...), uint64(f.XID), 10)
		b = append(append(b, " lsn "...), f.End.String()...)
		b = strconv.AppendInt(append(b, " changes "...), int64(f.Changes), 10)
		if f.Origin != "" {
			b = appendQuoted(append(b, " origin "...), f.Origin)
		}
		b = append(b, '\n')
	}
	e.buf = b
}

// changes writes the changes of this fate.
func (e *Encoder) changes(tx *pipeline.Transaction, pass moves.Fate) error {
	e.pass = pass
	for n, f := range tx.Fragments {
		if e.plan.moved.None(n, pass) {
			continue
		}
		e.fragment, e.of, e.index = n, f, 0
		if err := e.walker.Walk(f, e.each); err != nil {
			return err
		}
		if e.index != f.Changes {
			return fmt.Errorf("fragment %s: %d changes in the body, %d announced", f, e.index, f.Changes)
		}
	}
	return nil
}

// next writes a change, if it is its turn.
func (e *Encoder) next(c *pipeline.Change) error {
	i := e.index
	e.index++
	if i >= e.of.Changes {
		return nil // changes says it
	}
	if e.plan.moved.Of(e.fragment, i) != e.pass || e.plan.order.wiped(e.fragment, i, c) || e.copies.contained(e.of.Shard, c) || c.Op == pipeline.Read && e.plan.leaveRows {
		return nil
	}
	if err := e.change(c); err != nil {
		return fmt.Errorf("shard %q: %s: %w", e.conf.Shards[e.of.Shard], c.Op, err)
	}
	if e.out != nil && len(e.buf) >= output.FlushBytes {
		return e.flush()
	}
	return nil
}

func (e *Encoder) change(c *pipeline.Change) error {
	switch c.Op {
	case pipeline.Insert, pipeline.Update, pipeline.Delete, pipeline.Read:
		return e.row(c)
	case pipeline.Truncate:
		return nil // in front, see order
	case pipeline.Message:
		return e.message(c)
	}
	return fmt.Errorf("%s has no form", c.Op)
}
