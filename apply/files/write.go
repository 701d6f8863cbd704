package files

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// bufferBytes is how much is written at a time.
const bufferBytes = 1 << 20

// writer writes one group behind the last commit.
type writer struct {
	s       *session
	at      int64 // where the next byte goes
	sum     checksum
	failed  error // of the disk
	report  apply.Report
	careful bool

	first        pipeline.CSN // 0: there was none
	transactions int
	changes      int
	skipped      []skipped
	copies       copies
	copiesMoved  bool
}

// skipped is a transaction that was left out on request.
type skipped struct {
	CSN     pipeline.CSN `json:"csn"`
	Reason  string       `json:"reason"`
	By      string       `json:"by"`
	Asked   time.Time    `json:"asked"`
	Changes string       `json:"changes"` // what is missing
}

// entry is the group's.
func (w *writer) entry(g *apply.Group, now time.Time) *entry {
	e := &entry{
		Offset: w.s.state.end, Length: w.at - w.s.state.end, CRC: w.sum, Previous: w.s.state.progress.CSN, First: w.first, Last: g.To.CSN,
		Transactions: w.transactions, Written: now.UTC().Truncate(time.Microsecond), Skipped: w.skipped, Position: positionOf(g.To),
	}
	if w.copiesMoved {
		e.Copies = &w.copies
	}
	return e
}

// group writes the transactions, in batches of those that follow each other.
func (w *writer) group(g *apply.Group) error {
	if w.s.encoder == nil {
		w.s.encoder = w.s.cfg.Encoder(w.copies.clone().Tables)
	}
	if w.s.buffer == nil {
		w.s.buffer = bufio.NewWriterSize(nil, bufferBytes)
	}
	out := w.s.buffer
	out.Reset(w)
	for i := range g.Units {
		if u := &g.Units[i]; u.Unit != nil {
			if err := w.unit(out, u, g.Skips); err != nil {
				return err
			}
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write %s: %w", w.s.name, err)
	}
	if w.report.Sent != nil {
		w.report.Sent(w.changes, w.at-w.s.state.end)
	}
	return w.s.finish(g)
}

func (w *writer) unit(out io.Writer, u *apply.Unit, skips map[pipeline.CSN]apply.Skip) error {
	batch := pipeline.Batch{Previous: u.Previous}
	end := func() error {
		err := w.batch(out, &batch)
		batch = pipeline.Batch{Previous: batch.Last()}
		return err
	}
	for _, tx := range u.Transactions {
		if w.first == 0 {
			w.first = tx.CSN
		}
		skip, left := skips[tx.CSN]
		alone := left || w.careful || !tx.Resident()
		if alone {
			if err := end(); err != nil {
				return err
			}
		}
		if left {
			if err := w.skip(tx, skip); err != nil {
				return err
			}
			batch.Previous = tx.CSN
			continue
		}
		if err := w.marks(tx); err != nil {
			return err
		}
		batch.Transactions = append(batch.Transactions, tx)
		if alone {
			if err := end(); err != nil {
				return err
			}
		}
	}
	return end()
}

// batch writes transactions that follow each other.
func (w *writer) batch(out io.Writer, b *pipeline.Batch) error {
	if len(b.Transactions) == 0 {
		return nil
	}
	pieces, err := w.s.encoder.Encode(b)
	for _, p := range pieces {
		if err != nil {
			break
		}
		_, err = p.WriteTo(out)
	}
	var read *apply.ReadError
	switch {
	case w.failed != nil:
		return fmt.Errorf("write %s: %w", w.s.name, w.failed)
	case errors.As(err, &read):
		return err
	case err != nil:
		return unwritable(b, err)
	}
	w.transactions += len(b.Transactions)
	for _, tx := range b.Transactions {
		w.changes += tx.Changes()
	}
	return nil
}

// unwritable says that a transaction has no form in the file. Which one is known when it is alone, as in a careful attempt.
func unwritable(b *pipeline.Batch, err error) error {
	blocked := &apply.Blocked{Problem: "cannot be written", Err: err, Try: "cdcctl skip, which leaves the transaction out and writes that down in the index"}
	if len(b.Transactions) == 1 {
		blocked.CSN = b.Last()
	}
	return blocked
}

// Write appends to the file.
func (w *writer) Write(b []byte) (int, error) {
	n, err := w.s.data.WriteAt(b, w.at)
	w.sum = w.sum.add(b[:n])
	w.at += int64(n)
	if err != nil {
		w.failed = err
	} else if w.report.Sent != nil {
		w.report.Sent(w.changes, w.at-w.s.state.end)
	}
	return n, err
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// marks follows the mark that a transaction may begin with. Only what may hold one is read.
func (w *writer) marks(tx *pipeline.Transaction) error {
	for _, f := range tx.Fragments {
		if !f.Ops.Has(pipeline.Message) {
			continue
		}
		n := 0
		err := f.Walk(func(c *pipeline.Change) error {
			if n++; n > 1 {
				return errEnough
			}
			return w.mark(tx, f, c)
		})
		if err != nil && !errors.Is(err, errEnough) {
			return malformed(tx.CSN, err)
		}
	}
	return nil
}

func (w *writer) mark(tx *pipeline.Transaction, f *pipeline.Fragment, c *pipeline.Change) error {
	m, ok, err := mark.CopyOf(c)
	if ok && err == nil && w.copies.follow(tx.CSN, f.Shard, &m) {
		w.copiesMoved = true
	}
	return err
}

func malformed(csn pipeline.CSN, err error) error {
	var read *apply.ReadError
	if errors.As(err, &read) {
		return err
	}
	return &apply.Fatal{Problem: fmt.Sprintf("csn %s: the stream holds what cannot be read", csn), Err: err}
}

// skip leaves a transaction out. Marks count all the same: else what comes later would not be understood. Rows that cannot be read are
// a reason to skip, so they are no error here.
func (w *writer) skip(tx *pipeline.Transaction, why apply.Skip) error {
	var missing apply.Missing
	for _, f := range tx.Fragments {
		err := f.Walk(func(c *pipeline.Change) error {
			missing.Count(c)
			if m, ok, err := mark.CopyOf(c); ok && err == nil {
				w.copiesMoved = w.copies.follow(tx.CSN, f.Shard, &m) || w.copiesMoved
			}
			return nil
		})
		var read *apply.ReadError
		if errors.As(err, &read) {
			return err
		}
		if err != nil {
			missing.Unreadable(err)
		}
	}
	if w.copiesMoved { // by a mark that the encoder does not see
		w.s.encoder = w.s.cfg.Encoder(w.copies.clone().Tables)
	}
	w.skipped = append(w.skipped, skipped{tx.CSN, why.Reason, why.By, why.At.UTC(), missing.String()})
	return nil
}
