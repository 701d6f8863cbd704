package sim

import (
	"cmp"
	"math"
	"slices"

	"shardcdc/pipeline"
)

// World is the physical truth: what happened when, and the WAL that it left on each shard.
type World struct {
	Options
	Txns    []*Txn
	Shards  []*Shard
	End     micros // nothing happens later
	TooSoon bool   // a gid was used again before clocks can tell, or clocks were wrong: a loud stop is an answer
	byEnd   map[place]*Frag
	reused  bool // some gid was
}

// mayStop says whether a loud stop is an answer in this world.
func (w *World) mayStop() bool { return w.TooSoon }

// place names a fragment as a checkpoint does.
type place struct {
	shard pipeline.ShardID
	end   pipeline.LSN
}

// Txn is one distributed transaction.
type Txn struct {
	ID       int
	Begin    micros // its client began: everything acknowledged before is visible to it
	Ack      micros // its client was told that it is durable; never, if the client was not told
	Origin   bool
	Frags    []*Frag
	Reads    []Read
	GlobalID string // empty for a one-phase commit
}

// Read is a plain (MVCC) read of a row: it locks nothing and leaves no trace.
type Read struct {
	Shard pipeline.ShardID
	Row   int
	At    micros
}

// Frag is a transaction's part on one shard.
type Frag struct {
	Txn     *Txn
	Shard   pipeline.ShardID
	GID     string // empty: one-phase
	XID     pipeline.XID
	Locks   []Lock
	Changes int
	Bytes   int
	Decides []string // gids that this one-phase commit decides

	Stamped  micros // true instant at which the content record's time was taken
	Written  micros // true instant at which the content record was flushed; never: it was not
	Ended    micros // true instant of the commit or second phase; never: it did not come
	RollBack bool   // the second phase undoes it

	EndStamped micros // true instant at which the second phase's time was taken

	Content *Entry // Commit or Prepare record; nil when the world stopped before
	Second  *Entry // CommitPrepared or RollbackPrepared; nil when it did not come
}

// Lock is held from Taken until the fragment's Ended.
type Lock struct {
	Row   int
	Write bool
	Taken micros
}

// Shard is one database.
type Shard struct {
	ID     pipeline.ShardID
	Origin pipeline.LSN // where its WAL begins
	WAL    []*Entry
	clock  clock
}

// Entry is one record of a WAL.
type Entry struct {
	Frag *Frag
	At   micros // flushed at this instant, and visible from it on
	pipeline.Record
}

// NewWorld makes the world of o.
func NewWorld(o Options) *World {
	w := &World{Options: o, byEnd: map[place]*Frag{}}
	g := newGenesis(w)
	for id := range o.Txns {
		if !o.skips(id) {
			g.txn(id)
		}
	}
	w.End = max(1, g.last*int64(o.Cut)/100)
	for i := range o.Shards {
		s := &Shard{ID: pipeline.ShardID(i), clock: newClock(o.rand("clock", i), o.Skew, g.last)}
		s.Origin = pipeline.LSN(i+1) << 24
		w.Shards = append(w.Shards, s)
	}
	w.setClocks(g.last)
	for _, t := range w.Txns {
		for _, f := range t.Frags {
			w.log(f)
		}
	}
	for _, s := range w.Shards {
		w.layOut(s)
	}
	return w
}

// setClocks makes some clocks wrong for a while, but not before the shard has shown a date: of a clock that was behind from
// the first record on, and was then set forward, no record tells.
func (w *World) setClocks(span micros) {
	for _, s := range w.Shards {
		r := w.rand("wrong clock", int(s.ID))
		if !chance(r, w.WrongClocks) {
			continue
		}
		since := never
		for _, t := range w.Txns {
			for _, f := range t.Frags {
				if f.Shard == s.ID && !t.Origin && f.Written != never {
					since = min(since, f.Written)
				}
			}
		}
		if since != never {
			w.TooSoon = w.TooSoon || w.reused
			s.clock.set(r, w.MaxClockSkew, since+1, span)
		}
	}
}

// wrongClock says whether some clock is wrong between two instants.
func (w *World) wrongClock(from, to micros) bool {
	return slices.ContainsFunc(w.Shards, func(s *Shard) bool {
		return s.clock.wrong.from <= to && from < s.clock.wrong.to
	})
}

// log writes a fragment's records, up to the world's end.
func (w *World) log(f *Frag) {
	s := w.Shards[f.Shard]
	r := w.rand("log", f.Txn.ID<<8|int(f.Shard))
	stamp := func(at micros) pipeline.Timestamp {
		if !f.Txn.Origin {
			return s.clock.at(at)
		}
		switch r.IntN(4) { // the remote clock's, or nothing at all
		case 0:
			return 0
		case 1:
			return epoch - pipeline.Timestamp(r.Int64N(3600e6))
		case 2:
			return epoch + pipeline.Timestamp(r.Int64N(3600e6))
		}
		return s.clock.at(at)
	}
	if f.Written > w.End {
		return
	}
	f.Content = &Entry{Frag: f, At: f.Written}
	f.Content.Kind, f.Content.Time = pipeline.Commit, stamp(f.Stamped)
	s.WAL = append(s.WAL, f.Content)
	if f.GID == "" {
		return
	}
	f.Content.Kind, f.Content.GID = pipeline.Prepare, f.GID
	if f.Ended > w.End {
		return
	}
	f.Second = &Entry{Frag: f, At: f.Ended}
	f.Second.Kind, f.Second.GID = pipeline.CommitPrepared, f.GID
	f.Second.Time = stamp(f.EndStamped)
	if f.RollBack {
		f.Second.Kind = pipeline.RollbackPrepared
	}
	s.WAL = append(s.WAL, f.Second)
}

// layOut gives the records of a shard their positions. There is other WAL between some of them.
func (w *World) layOut(s *Shard) {
	r := w.rand("layout", int(s.ID))
	slices.SortStableFunc(s.WAL, func(a, b *Entry) int { return cmp.Compare(a.At, b.At) })
	at, xid := s.Origin, pipeline.XID(math.MaxUint32-uint32(r.IntN(40))) // numbers wrap around in some worlds
	for _, e := range s.WAL {
		if chance(r, 60) {
			at += pipeline.LSN(r.IntN(300))
		}
		e.Start = at
		at += pipeline.LSN(1 + r.IntN(100))
		e.End = at
		f := e.Frag
		if e == f.Content {
			xid++
			f.XID = xid
			w.byEnd[place{s.ID, e.End}] = f
		} else {
			e.PrepareEnd = f.Content.End
		}
		e.XID = f.XID
	}
}

// record is what a reader of the WAL gets, fresh each time.
func (e *Entry) record() pipeline.Record {
	r := e.Record
	if r.Kind != pipeline.RollbackPrepared {
		r.PrepareEnd = 0
	}
	if f := e.Frag; e == f.Content {
		r.Fragment = &pipeline.Fragment{
			Shard: f.Shard, XID: f.XID, GID: f.GID, Start: e.Start, End: e.End, Time: e.Time,
			Body: make([]byte, f.Bytes), Changes: f.Changes, Decides: slices.Clone(f.Decides),
		}
		if f.Txn.Origin {
			r.Fragment.Origin = "remote"
		}
	}
	return r
}

// written is how many records are flushed at an instant.
func (s *Shard) written(t micros) int {
	n, _ := slices.BinarySearchFunc(s.WAL, t, func(e *Entry, t micros) int {
		if e.At <= t {
			return -1
		}
		return 1
	})
	return n
}

// flushed is the end of the WAL at an instant: it rises between records, too, and after the last.
func (s *Shard) flushed(t micros) pipeline.LSN {
	n := s.written(t)
	from, since := s.Origin, micros(0)
	if n > 0 {
		from, since = s.WAL[n-1].End, s.WAL[n-1].At
	}
	more := pipeline.LSN(max(0, t-since) / 50)
	if n < len(s.WAL) {
		more = min(more, s.WAL[n].Start-from)
	}
	return from + more
}

// committed says whether the world committed t.
func (t *Txn) committed() bool { return t.visible() != never }

// visible is the first instant at which anybody can see something of t: that of its first commit record.
func (t *Txn) visible() micros {
	first := never
	for _, f := range t.Frags {
		first = min(first, f.visible())
	}
	return first
}

// visible is the instant from which f's writes are seen and its locks are free.
func (f *Frag) visible() micros {
	switch {
	case f.Content == nil:
	case f.GID == "":
		return f.Content.At
	case f.Second != nil && !f.RollBack:
		return f.Second.At
	}
	return never
}

// stamped is the latest instant at which a time in t's content records was taken.
func (t *Txn) stamped() micros {
	var last micros
	for _, f := range t.Frags {
		last = max(last, f.Stamped)
	}
	return last
}

func (t *Txn) changes() int {
	n := 0
	for _, f := range t.Frags {
		n += f.Changes
	}
	return n
}

// on is t's fragment on a shard, nil if it left no record there.
func (t *Txn) on(s pipeline.ShardID) *Frag {
	for _, f := range t.Frags {
		if f.Shard == s && f.Content != nil {
			return f
		}
	}
	return nil
}
