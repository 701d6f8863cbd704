package apply

import (
	"context"
	"errors"
	"fmt"
	"io"

	"shardcdc/pipeline"
)

// SpillFile is a place for rows outside of memory. What was written can be read after Seal, as often as needed, until
// Release. One goroutine uses it.
type SpillFile interface {
	io.Writer
	Seal() error
	pipeline.Content
}

// smallBytes: rows that wait for the rest of their unit stay in memory if their fragment is small, until the unit has
// smallBytesMax of them.
const (
	smallBytes    = 64 << 10
	smallBytesMax = 8 << 20
)

// large applies a unit whose rows are still in the stream.
func (r *run) large(ctx context.Context, units []Unit) (err error) {
	u := &units[0]
	g := r.group(units)
	if err := continues(u, &g.To); err != nil {
		return err
	}
	defer func() { r.abandoned(err) }()
	defer r.update(func(s *Status) { s.Large = Large{} })
	to := g.To
	if r.direct(u) {
		r.showLarge(u, false, &g)
		g.End = func() (Progress, error) {
			err := u.Finish()
			if err == nil {
				err = ends(u, &to)
			}
			return to, err
		}
		return r.apply(ctx, g, &to)
	}
	r.showLarge(u, true, &g)
	spooled, err := r.spool(u)
	defer spooled.release()
	if err != nil {
		return err
	}
	if err := ends(u, &to); err != nil {
		return err
	}
	g.To = to
	r.showLarge(u, false, &g)
	return r.apply(ctx, g, &to)
}

// direct says whether the rows can go into the target transaction as they come. After a failure they are read to their
// end before that is opened, if they can be kept: the stream may have stalled, and a target does not let a transaction
// wait for long.
func (r *run) direct(u *Unit) bool {
	skipped, streams := true, true
	_ = u.transactions(func(tx *pipeline.Transaction) error {
		if _, ok := r.skips[tx.CSN]; !ok {
			skipped = false
			streams = streams && r.session.Streams(tx)
		}
		return nil
	})
	return skipped || streams && (r.failures == 0 || r.cfg.Spill == nil)
}

// abandoned remembers where the dead parts of a unit end.
func (r *run) abandoned(err error) {
	var a *Abandoned
	if errors.As(err, &a) {
		r.dead = Progress{StreamID: r.progress.StreamID, CSN: r.progress.CSN, Seq: a.Seq, Stamp: a.Stamp}
	}
}

// passDead goes behind the dead parts that an earlier attempt met. Between them and the progress there is no other
// transaction, because that would have moved the CSN.
func (r *run) passDead() {
	if d := r.dead; d.StreamID == r.progress.StreamID && d.CSN == r.progress.CSN && d.Seq > r.progress.Seq {
		r.progress = d
	}
}

func (r *run) showLarge(u *Unit, spooling bool, g *Group) {
	l := Large{CSN: u.Unit.Last, Spooling: spooling, RowsTotal: u.changes()}
	_ = u.fragments(func(f *pipeline.Fragment) error { l.BytesTotal += f.Size(); return nil })
	r.state(Applying, nil)
	r.update(func(s *Status) { s.Large = l })
	g.Report.Sent = func(rows int, bytes int64) {
		r.update(func(s *Status) { s.Large.Rows, s.Large.Bytes = rows, bytes })
	}
}

// spooled is what holds the rows of a unit.
type spooled struct {
	files []SpillFile
	small int // bytes in memory
}

func (s *spooled) release() {
	for _, f := range s.files {
		f.Release()
	}
}

// spool reads a unit to its end into files.
func (r *run) spool(u *Unit) (*spooled, error) {
	s := new(spooled)
	if r.cfg.Spill == nil {
		return s, &Blocked{
			CSN:     u.Unit.Last,
			Problem: "the transaction is larger than memory, and this worker has no folder to put it into until it is complete",
			Try:     "start the worker with a spill folder; it goes on by itself",
		}
	}
	done := int64(0)
	err := u.fragments(func(f *pipeline.Fragment) error {
		if f.Content == nil {
			return nil
		}
		seen := func(n int) {
			done += int64(n)
			r.update(func(st *Status) { st.Large.Bytes = done })
		}
		return r.spoolFragment(s, f, seen)
	})
	if err != nil {
		return s, fmt.Errorf("read csn %s: %w", u.Unit.Last, err)
	}
	if err := u.Finish(); err != nil {
		return s, fmt.Errorf("read csn %s: %w", u.Unit.Last, err)
	}
	return s, nil
}

// spoolFragment moves one fragment's rows into memory or into a file.
func (r *run) spoolFragment(s *spooled, f *pipeline.Fragment, seen func(int)) (err error) {
	size := f.Content.Size()
	from, err := f.Content.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if size <= smallBytes && s.small+int(size) <= smallBytesMax {
		body := make([]byte, size)
		if _, err := io.ReadFull(from, body); err != nil {
			return err
		}
		s.small += int(size)
		seen(int(size))
		f.Body, f.Content = body, nil
		return nil
	}
	file, err := r.cfg.Spill()
	if err != nil {
		return fmt.Errorf("make a file for rows: %w", err)
	}
	s.files = append(s.files, file)
	if err := pour(file, from, seen); err != nil {
		return err
	}
	if err := file.Seal(); err != nil {
		return fmt.Errorf("write rows to a file: %w", err)
	}
	if file.Size() != size {
		return fmt.Errorf("%d bytes of rows in a file, want %d", file.Size(), size)
	}
	f.Content = readable{file}
	return nil
}

// pour copies and says how much.
func pour(to io.Writer, from io.Reader, seen func(int)) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return fmt.Errorf("write rows to a file: %w", err)
			}
			seen(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readable makes the errors of reading a file ReadErrors.
type readable struct{ SpillFile }

func (c readable) Open() (io.ReadCloser, error) {
	r, err := c.SpillFile.Open()
	if err != nil {
		return nil, &ReadError{err}
	}
	return readableBody{r}, nil
}

type readableBody struct{ io.ReadCloser }

func (b readableBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &ReadError{err}
	}
	return n, err
}
