package files

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"shardcdc/apply"
	"shardcdc/apply/schedule"
	"shardcdc/pipeline"
	"shardcdc/pipeline/owner"
)

// session has the folder, from Open to Close. After an error it must be closed: the next one recovers the folder.
type session struct {
	cfg  *Config
	lock io.Closer

	name    string // of the present file, without ending; "": there is none
	data    file
	index   file
	written int64     // bytes of the index
	opened  time.Time // when the first transactions of the file were written; zero: it has none
	state   state

	encoder Encoder       // of the present file; nil: it is still to be made
	buffer  *bufio.Writer // of the running Apply
}

var _ apply.Session = (*session)(nil)

// Progress is described by apply.Session. The lock keeps older sessions out: they are closed, or their process is dead.
func (s *session) Progress(context.Context) (apply.Progress, error) { return s.state.progress, nil }

// Copies is described by apply.Session.
func (s *session) Copies() apply.Copies { return s.state.copies.shown() }

// Statements is described by apply.Session: DDL is in the files as every shard ran it.
func (s *session) Statements() []apply.Statement { return nil }

// Streams is described by apply.Session: an encoder may read a transaction several times.
func (s *session) Streams(*pipeline.Transaction) bool { return false }

// Touches is described by apply.Session: one writes at a time.
func (s *session) Touches(_ context.Context, _ *apply.Group, keys []schedule.Key) ([]schedule.Key, bool) {
	return keys, true
}

var errOneWriter = errors.New("a folder has one writer")

// Lane is described by apply.Session.
func (s *session) Lane(context.Context) (apply.Lane, error) { return nil, errOneWriter }

// Held is described by apply.Session.
func (s *session) Held(context.Context, apply.Lane, []apply.Lane) (bool, error) {
	return false, errOneWriter
}

// Close is described by apply.Lane.
func (s *session) Close(context.Context) { s.release() }

// release closes everything, the lock last. What was not committed is cut off by the next session.
func (s *session) release() {
	for _, f := range []file{s.data, s.index} {
		if f != nil {
			_ = f.Close()
		}
	}
	if s.lock != nil {
		_ = s.lock.Close()
	}
	*s = session{cfg: s.cfg}
}

// Apply is described by apply.Lane.
func (s *session) Apply(ctx context.Context, g apply.Group) error {
	if g.From != s.state.progress {
		return &apply.Fatal{
			Problem: fmt.Sprintf("the folder is at %s, and the worker goes on from %s", s.state.progress, g.From),
			Try:     "find out who else wrote it",
		}
	}
	if !hasTransactions(&g) {
		return s.beat(ctx, &g)
	}
	if err := s.room(s.state.progress); err != nil {
		return refused(err)
	}
	w := &writer{s: s, at: s.state.end, report: g.Report, copies: s.state.copies.clone(), careful: g.Careful}
	if err := w.group(&g); err != nil {
		return refused(err)
	}
	if err := turn(ctx, &g); err != nil {
		return err
	}
	if err := s.data.Sync(); err != nil {
		return refused(fmt.Errorf("sync %s: %w", s.name, err))
	}
	if err := s.intact(); err != nil {
		return refused(err)
	}
	return s.commit(w.entry(&g, s.cfg.Now()))
}

func hasTransactions(g *apply.Group) bool {
	return slices.ContainsFunc(g.Units, func(u apply.Unit) bool { return u.Unit != nil && len(u.Transactions) > 0 })
}

func turn(ctx context.Context, g *apply.Group) error {
	if g.Turn == nil {
		return nil
	}
	return g.Turn(ctx)
}

// intact looks whether what is written is where others find it: a file that was removed, or whose folder was moved or mounted over, takes
// everything that is written, and nobody will ever read it. After the error a new session finds out what is left.
func (s *session) intact() error {
	paths := map[string]io.Closer{s.path(owner.LockFile): s.lock}
	if s.name != "" {
		paths[s.path(s.name+"."+s.cfg.Format)], paths[s.path(s.name+indexEnding)] = s.data, s.index
	}
	for path, f := range paths {
		if still, err := s.cfg.disk.still(path, f); err != nil {
			return fmt.Errorf("look for %s: %w", path, err)
		} else if !still {
			return fmt.Errorf("%s was taken away, or replaced, while the worker wrote it", path)
		}
	}
	return nil
}

// commit is the commit point: the entry's line is whole and on the disk. An error leaves it open whether it is.
func (s *session) commit(e *entry) error {
	b, err := line(e)
	if err != nil {
		return fmt.Errorf("write the index: %w", err)
	}
	if err := s.state.follows(e); err != nil {
		return &apply.Fatal{Problem: "the index would not be contiguous", Err: err}
	}
	if _, err := s.index.WriteAt(b, s.written); err != nil {
		return fmt.Errorf("write the index %s: %w", s.name, err)
	}
	if err := s.index.Sync(); err != nil {
		return fmt.Errorf("sync the index %s: %w", s.name, err)
	}
	s.written += int64(len(b))
	s.state.take(e)
	if s.opened.IsZero() {
		s.opened = e.Written
	}
	return nil
}

// beat moves the progress without transactions. A file that is old enough is closed by that, so that it does not wait for the next
// transaction.
func (s *session) beat(ctx context.Context, g *apply.Group) error {
	if err := s.finish(g); err != nil {
		return err
	}
	if err := turn(ctx, g); err != nil {
		return err
	}
	if err := s.intact(); err != nil {
		return err
	}
	if s.name == "" || s.full() {
		if err := s.begin(g.To); err != nil {
			return err
		}
		s.state.progress = g.To
		return nil
	}
	b, err := line(heartbeat{Index: s.name, Bytes: s.written, Position: positionOf(g.To)})
	if err == nil {
		err = s.replace(heartbeats, b)
	}
	if err != nil {
		return fmt.Errorf("write the progress: %w", err)
	}
	s.state.progress = g.To
	return nil
}

// finish finds out where a group ends whose rows were still arriving.
func (s *session) finish(g *apply.Group) (err error) {
	if g.End != nil {
		g.To, err = g.End()
	}
	return err
}

// full says that the present file gets no more transactions.
func (s *session) full() bool {
	return !s.opened.IsZero() && (s.state.end >= s.cfg.RotateBytes || s.written >= indexBytesMax || s.cfg.Now().Sub(s.opened) >= s.cfg.RotateEvery)
}

// room makes sure that there is a file that may get transactions.
func (s *session) room(after apply.Progress) error {
	if s.name != "" && !s.full() {
		return nil
	}
	return s.begin(after)
}

// begin makes the file for what follows a progress, and its index. The rename of the index is a commit point, too, where the
// progress is another one than before.
func (s *session) begin(after apply.Progress) error {
	name := nameOf(after.CSN)
	copied := s.state.copies.clone()
	h, err := line(head{
		Version: version, Subscription: s.cfg.Subscription, Format: s.cfg.Format, Choices: s.cfg.Choices,
		Begin: int64(len(s.cfg.Head)), After: positionOf(after), Copies: &copied,
	})
	if err != nil {
		return err
	}
	data, err := s.cfg.disk.create(s.path(name + "." + s.cfg.Format))
	if err != nil {
		return fmt.Errorf("make a file: %w", err)
	}
	if s.data != nil {
		_ = s.data.Close() // all of it is synced
	}
	s.data = data
	if _, err := data.WriteAt([]byte(s.cfg.Head), 0); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := data.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	if err := s.replace(name+indexEnding, h); err != nil {
		return fmt.Errorf("make an index: %w", err)
	}
	index, err := s.cfg.disk.open(s.path(name + indexEnding))
	if err != nil {
		return fmt.Errorf("open the index: %w", err)
	}
	if s.index != nil {
		_ = s.index.Close()
	}
	s.name, s.index, s.written, s.opened, s.encoder = name, index, int64(len(h)), time.Time{}, nil
	s.state.end = int64(len(s.cfg.Head))
	return nil
}

// replace makes a file, or another one in its place, with this content. When it returns nil that is durable.
func (s *session) replace(name string, content []byte) error {
	path := s.path(name)
	f, err := s.cfg.disk.create(path + unfinished)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(content, 0); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := s.cfg.disk.rename(path+unfinished, path); err != nil {
		return err
	}
	return s.cfg.disk.syncFolder(s.cfg.Folder)
}
