package copying

import (
	"fmt"
	"slices"
	"time"

	"shardcdc/dumper/copier"
	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
)

// shard is one shard's share of a job. Everything but conf and id is under the engine's lock.
type shard struct {
	id      pipeline.ShardID
	conf    *control.Shard
	tracker *fold.Tracker
	parts   []*part // in the order of copying
	byName  map[control.CopyTableName]*part

	listed  bool   // parts are all that there will be
	trouble string // what it waits for
}

// done says that every part of the shard is.
func (s *shard) done() bool {
	return s.listed && !slices.ContainsFunc(s.parts, func(p *part) bool { return !p.ledger.Done })
}

// part is one table on one shard.
type part struct {
	shard  *shard
	n      int // index in the job's tables
	name   control.CopyTableName
	folded fold.Table         // the table as package fold knows it
	ledger *control.CopyTable // what is durable; replaced, never changed in place
	coming *control.CopyTable // what it becomes with the batch that is being published; nil: the same
	table  *copier.Table      // as the shard describes it; nil: not yet

	generation int       // rises when the part begins anew; chunks of an older one mean nothing
	ranges     []cursor  // of a table with a key: like the ledger's, further ahead
	again      []moved   // like the ledger's Redo: which transactions have to be visible
	since      []moved   // why it began anew: every chunk has to see these transactions
	rereading  bool      // a chunk of Redo is on its way; of a table without a key, its only chunk
	notBefore  time.Time // pause after an error
	trouble    string
	rowBytes   int64 // of a row, on average, of the last chunk; 0: not known
}

// cursor is how far a range is read.
type cursor struct {
	generation int // rises when what was read has to be read again
	after      []string
	through    []string
	reading    bool
	ended      bool
}

// moved belongs to one key of Redo.
type moved struct {
	xid   pipeline.XID
	known bool   // else it was there before this node, and is visible
	form  string // of the key; empty: not known
}

// move is rows that got another key in one transaction.
type move struct {
	fold.Moved
	by moved
}

func newPart(s *shard, n int, ledger *control.CopyTable) *part {
	p := &part{
		shard: s, n: n, name: control.CopyTableName{Schema: ledger.Schema, Name: ledger.Name},
		folded: fold.Table{Schema: ledger.Schema, Name: ledger.Name, Key: ledger.Key},
	}
	p.begin(ledger)
	return p
}

// begin makes reading begin where the ledger ends.
func (p *part) begin(ledger *control.CopyTable) {
	p.generation++
	p.ledger, p.rereading = ledger, false
	p.ranges = make([]cursor, len(ledger.Ranges))
	for i, r := range ledger.Ranges {
		p.ranges[i] = cursor{after: r.After, through: r.Through, ended: r.Done}
	}
	p.again = make([]moved, len(ledger.Redo))
}

// install adds a part to its shard and follows its table from here on. The lock is held, or not needed yet.
func (s *shard) install(p *part) {
	s.parts = append(s.parts, p)
	slices.SortFunc(s.parts, func(a, b *part) int { return a.n - b.n })
	s.byName[p.name] = p
	if !p.ledger.Done {
		s.tracker.Follow(p.folded)
	}
}

// kind of a chunk.
type kind uint8

const (
	ofRange kind = iota // of a range of keys
	ofKeys              // rows that got another key
	ofAll               // the rows of a table without a key
)

// chunk is rows on their way from a shard into the stream.
type chunk struct {
	id   string
	part *part
	kind kind

	generation int // of the part
	at         int // ofRange: index of the range
	ranging    int // ofRange: generation of the range
	keys       [][]string

	bytes  int64 // of the rows
	took   int64 // of the memory budget
	result *copier.Result
}

const (
	flyingMax = 4    // chunks of one range at the same time
	againMin  = 256  // keys that are worth a chunk while ranges are being read
	againMax  = 1000 // keys in a chunk
	redoMax   = 4000 // keys in a ledger; more, and the part begins anew
	redoBytes = 64 << 10
)

// pick finds what may be read next. wait is when to look again although nothing changed; 0: no such time. The lock is held.
func (s *shard) pick(now time.Time, flying func(*part, int) int) (c *chunk, wait time.Duration) {
	for _, p := range s.parts {
		if p.ledger.Done || p.table == nil {
			continue
		}
		if d := p.notBefore.Sub(now); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		if c := p.pick(flying); c != nil {
			return c, 0
		}
	}
	return nil, wait
}

func (p *part) pick(flying func(*part, int) int) *chunk {
	c := &chunk{part: p, generation: p.generation}
	if !p.ledger.Keyed {
		if p.rereading {
			return nil
		}
		p.rereading, c.kind = true, ofAll
		return c
	}
	if n := len(p.ledger.Redo); n > 0 && !p.rereading && (n >= againMin || p.ranged()) {
		p.rereading, c.kind, c.keys = true, ofKeys, p.ledger.Redo[:min(n, againMax):min(n, againMax)]
		return c
	}
	for i := range p.ranges {
		r := &p.ranges[i]
		if !r.ended && !r.reading && flying(p, i) < flyingMax {
			r.reading = true
			c.kind, c.at, c.ranging = ofRange, i, r.generation
			return c
		}
	}
	return nil
}

// ranged says that every range is in the stream.
func (p *part) ranged() bool {
	return !slices.ContainsFunc(p.ledger.Ranges, func(r control.CopyRange) bool { return !r.Done })
}

// stale says that the chunk means nothing any more.
func (c *chunk) stale() bool {
	p := c.part
	return p.ledger.Done || c.generation != p.generation || c.kind == ofRange && c.ranging != p.ranges[c.at].generation
}

// then is the ledger once the chunk is in the stream. The lock is held.
func (c *chunk) then() *control.CopyTable {
	next := *c.part.ledger
	next.Intent = nil
	next.Chunks++
	next.Rows += int64(c.result.Rows)
	next.Bytes += c.bytes
	switch c.kind {
	case ofAll:
		next.Done = true
		return &next
	case ofKeys:
		next.Redo = next.Redo[len(c.keys):]
	case ofRange:
		next.Ranges = slices.Clone(next.Ranges)
		r := &next.Ranges[c.at]
		r.Done = c.result.End
		if c.result.Last != nil {
			r.After = c.result.Last
		}
	}
	next.Done = len(next.Redo) == 0 && !slices.ContainsFunc(next.Ranges, func(r control.CopyRange) bool { return !r.Done })
	return &next
}

// rewind makes what the chunk would have copied be read again.
func (c *chunk) rewind() {
	p := c.part
	if c.kind != ofRange {
		p.rereading = false
		return
	}
	ledger := p.ledger
	if p.coming != nil {
		ledger = p.coming
	}
	r := &p.ranges[c.at]
	*r = cursor{generation: r.generation + 1, after: ledger.Ranges[c.at].After, through: r.through, ended: ledger.Ranges[c.at].Done}
}

// visible says whether the snapshot of a chunk of keys saw every transaction that gave a row one of them: a transaction is
// published as soon as one shard has committed it, and may not be visible on this one for a while. If the part began anew
// because of such rows, they are in any chunk: a row could move from one that did not see it move into one that did, or the
// other way, and be in neither.
func (c *chunk) visible() bool {
	unseen := func(m moved) bool { return m.known && !c.result.Snapshot.Sees(m.xid) }
	return !slices.ContainsFunc(c.part.again[:len(c.keys)], unseen) && !slices.ContainsFunc(c.part.since, unseen)
}

// add is the ledger with more keys to copy again, and what belongs to each of these; anew says that the part begins anew
// instead. Behind the ranges, rows that are in the stream already are left out (see package fold). The lock is held.
func (p *part) add(moves []move) (next *control.CopyTable, again []moved, anew bool) {
	l := *p.ledger
	w := waitingOf(&l, p.again)
	l.Redo = l.Redo[:len(l.Redo):len(l.Redo)]
	behind := p.ranged()
	for _, m := range moves {
		if m.All {
			anew = true
			again = append(again, m.by)
		}
		for i := 0; i+1 < len(m.Keys); i += 2 {
			if behind && !anew && !w.has(m.Keys[i], m.by.form) {
				continue
			}
			for _, key := range m.Keys[i : i+2] {
				l.Redo, again = append(l.Redo, key), append(again, m.by)
				w.add(key, m.by.form)
			}
		}
	}
	if anew || len(l.Redo) > redoMax || w.bytes > redoBytes {
		l.Ranges, l.Redo, l.Rows, l.Bytes = []control.CopyRange{{}}, nil, 0, 0
		return &l, again, true
	}
	return &l, again, false
}

// waiting is the keys of Redo.
type waiting struct {
	keys  map[string]bool
	bytes int
	form  string
	mixed bool // not all are known to have this form
}

func waitingOf(l *control.CopyTable, again []moved) *waiting {
	w := &waiting{keys: map[string]bool{}}
	for i, key := range l.Redo {
		w.add(key, again[i].form)
	}
	return w
}

func (w *waiting) add(key []string, form string) {
	w.mixed = w.mixed || form == "" || len(w.keys) > 0 && form != w.form
	w.form = form
	w.keys[keyText(key)] = true
	for _, v := range key {
		w.bytes += len(v) + 8
	}
}

// has says whether a key may be among them. Where a column had another type or modifier in between, the same key may have
// another text.
func (w *waiting) has(key []string, form string) bool {
	return len(w.keys) > 0 && (w.mixed || form != w.form || w.keys[keyText(key)])
}

func keyText(key []string) string { return fmt.Sprintf("%q", key) }

// formOf is what the text of a table's key depends on; empty: a fragment has it in several forms.
func formOf(f *pipeline.Fragment, t fold.Table) (form string) {
	for i := range f.Relations {
		r := f.Relations[i].Relation
		if r.Namespace != t.Schema || r.Name != t.Name {
			continue
		}
		is := ""
		for _, name := range t.Key {
			for _, c := range r.Columns {
				if c.Name == name {
					is += fmt.Sprintf("%d %d,", c.Type, c.Modifier)
				}
			}
		}
		if form != "" && is != form {
			return ""
		}
		form = is
	}
	return form
}

func (p *part) String() string { return fmt.Sprintf("table %s on shard %s", p.name, p.shard.conf.Name) }
