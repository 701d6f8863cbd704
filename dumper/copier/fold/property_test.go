package fold

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// copying copies the table of a world to a target, as the planner of a copy does, while the world goes on.
type copying struct {
	w     *world
	t     *Tracker
	often []string // what happens, more than once what happens more often
	roomy bool     // nothing is lost for want of memory

	at     int                   // in the order: what is before is published
	truth  map[string]row        // the source at this place of the order; the oracle: it knows nothing of snapshots
	target map[string]row        // what a target has
	begun  bool                  // the target knows of the copy
	follow map[*transaction]bool // transactions that were open when the table was followed; nil: it is not followed
	jobs   []*job                // all that is to be copied, under way or waiting
	redo   []string
	copied bool // of a table without a key: its rows are on the target
	serial int
}

// job is a chunk to be copied: a range of ids, or, of keys that moved, a list.
type job struct {
	ids  string // of all, the empty text
	redo int    // so many keys from the front of the list
	done bool

	id    string // of the attempt under way
	stage string // begun, read, taken, marked
	s     Snapshot
	rows  map[string]row
}

func (j *job) holds(id string) bool { return j.ids == "" || strings.Contains(j.ids, id) }

// publish takes the next of the order.
func (c *copying) publish(t *rapid.T) {
	if c.at == len(c.w.order) {
		return
	}
	p := c.w.order[c.at]
	c.at++
	switch {
	case p.mark == "begin":
		c.begun, c.target = true, map[string]row{}
	case p.tx == nil:
		c.rows(t, p.mark)
	default:
		c.changes(t, p.tx)
	}
	c.check(t)
}

// changes publishes a transaction: first the ledger, then the target.
func (c *copying) changes(t *rapid.T, tx *transaction) {
	f := c.w.fragment(tx)
	if rapid.Bool().Draw(t, "spilled") {
		f.Content, f.Body = &elsewhere{b: f.Body, step: 7}, nil
	}
	moved, err := c.t.Take(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range moved {
		if m.All {
			t.Fatalf("of %d changes all rows are said to move", len(tx.actions))
		}
		for _, key := range m.Keys {
			c.redo = append(c.redo, key[0])
		}
	}
	for _, a := range tx.actions {
		play(c.truth, a)
		if c.begun {
			c.apply(a)
		}
	}
}

// apply is what a target does with a change of a table that is being copied.
func (c *copying) apply(a action) {
	switch {
	case !c.w.keyed:
		if c.copied {
			play(c.target, a)
		}
	case a.op == pipeline.Update:
		had, there := c.target[a.was.id]
		if !there {
			return
		}
		if a.is.big == a.was.big && !c.w.full {
			a.is.big = had.big // it was not sent
		}
		play(c.target, a)
	default:
		play(c.target, a)
	}
}

// rows publishes a chunk in place of its mark.
func (c *copying) rows(t *rapid.T, id string) {
	i := slices.IndexFunc(c.jobs, func(j *job) bool { return j.id == id })
	if i < 0 {
		return // it was given up
	}
	j := c.jobs[i]
	ch := c.w.chunk(id, j.rows, j.holds)
	ch.Snapshot = j.s
	if !c.w.keyed && rapid.Bool().Draw(t, "large") {
		ch.Content, ch.Body = &elsewhere{b: ch.Body, step: rapid.SampledFrom([]int{1, 7, 4000}).Draw(t, "bytes at a time")}, nil
	}
	f := &pipeline.Fragment{}
	f.Append(mark.Message(mark.CopyPrefix, (&mark.Copy{Kind: mark.Rows, Job: "1", Chunk: id}).Content(), 1))
	err := c.t.Fold(ch, f)
	j.id, j.stage = "", ""
	if errors.Is(err, ErrAgain) {
		if c.roomy {
			t.Fatal(err)
		}
		if f.Changes != 1 || f.Content != nil {
			t.Fatal("a chunk that has to be read again has changed its fragment")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	j.done = true
	c.redo = c.redo[j.redo:]
	c.load(t, f)
}

// load gives a target the rows of a fragment.
func (c *copying) load(t *rapid.T, f *pipeline.Fragment) {
	n := 0
	err := f.Walk(func(ch *pipeline.Change) error {
		n++
		if ch.Op != pipeline.Read {
			return nil
		}
		v := ch.New.Values(nil)
		if !c.w.keyed {
			// Which of the rows that are alike has which id does not matter: give it that of one which is.
			want := row{v: string(v[0].Data), big: string(v[1].Data)}
			for id, r := range c.truth {
				if _, has := c.target[id]; !has && r.v == want.v && r.big == want.big {
					c.target[id] = r
					return nil
				}
			}
			t.Fatalf("row %v is not there (or not so often); there are %s", want, c.w.shown(c.truth))
		}
		c.target[string(v[0].Data)] = row{string(v[0].Data), string(v[1].Data), string(v[2].Data)}
		return nil
	})
	if err != nil || n != f.Changes {
		t.Fatalf("%d of %d changes: %v", n, f.Changes, err)
	}
	if !c.w.keyed {
		c.copied = true
		if got, want := c.w.shown(c.target), c.w.shown(c.truth); got != want {
			t.Fatalf("the rows of the table:\n%s\nwant\n%s", got, want)
		}
	}
}

// check: whatever row a target has is right; when all is copied none is missing.
func (c *copying) check(t *rapid.T) {
	if !c.begun {
		return
	}
	for id, r := range c.target {
		if c.truth[id] != r {
			t.Fatalf("row %v on the target; on the source %v", r, c.truth[id])
		}
	}
	if c.complete() && c.w.shown(c.target) != c.w.shown(c.truth) {
		t.Fatalf("all is copied, but the target has\n%s\nand the source\n%s", c.w.shown(c.target), c.w.shown(c.truth))
	}
}

func (c *copying) complete() bool {
	return len(c.jobs) > 0 && len(c.redo) == 0 && !slices.ContainsFunc(c.jobs, func(j *job) bool { return !j.done })
}

// start follows the table once the target knows of the copy, and plans it.
func (c *copying) start(t *rapid.T) {
	if !c.begun || c.follow != nil {
		return
	}
	c.t.Follow(c.w.followed())
	c.follow = map[*transaction]bool{}
	for _, tx := range c.w.open {
		c.follow[tx] = true
	}
	if !c.w.keyed {
		c.jobs = []*job{{}}
		return
	}
	cut := rapid.IntRange(1, len(ids)-2).Draw(t, "cut")
	c.jobs = []*job{{ids: ids[:cut]}, {ids: ids[cut : cut+1]}, {ids: ids[cut+1:]}}
}

// waiting says whether a transaction is still open that was when the table was followed (assumption A1).
func (c *copying) waiting() bool {
	return c.follow == nil || slices.ContainsFunc(c.w.open, func(tx *transaction) bool { return c.follow[tx] })
}

// step brings a job further.
func (c *copying) step(t *rapid.T, j *job) {
	switch j.stage {
	case "":
		if j.done || c.waiting() {
			return
		}
		c.serial++
		j.id, j.stage = fmt.Sprint("chunk", c.serial), "begun"
		c.t.Begin(j.id, c.w.followed())
	case "begun":
		if c.w.table == nil { // else the reader waits for its lock (assumption A3)
			j.s, j.rows = c.w.snapshot()
			j.stage = "read"
		}
	case "read":
		c.t.Taken(j.id, j.s)
		j.stage = "taken"
	case "taken":
		mark := c.w.begin()
		c.w.order = append(c.w.order, placed{mark: j.id})
		mark.done, mark.placed = true, true
		c.w.end(mark)
		j.stage = "marked"
	}
}

// again copies keys that moved, in the order in which they were reported, one chunk at a time.
func (c *copying) again(t *rapid.T) {
	last := len(c.jobs) - 1
	if len(c.jobs) == 0 || len(c.redo) == 0 || c.jobs[last].redo > 0 && !c.jobs[last].done {
		return
	}
	n := rapid.IntRange(1, len(c.redo)).Draw(t, "keys again")
	c.jobs = append(c.jobs, &job{ids: strings.Join(c.redo[:n], ""), redo: n})
}

// one does something. Worlds differ in what happens often: in some the stream lags, in others transactions stay open.
func (c *copying) one(t *rapid.T) {
	w := c.w
	switch rapid.SampledFrom(c.often).Draw(t, "what") {
	case "begin":
		if len(w.open) < 4 {
			w.begin()
		}
	case "write":
		if all := w.writable(); len(all) > 0 {
			w.write(t, rapid.SampledFrom(all).Draw(t, "writer"))
		}
	case "finish":
		if len(w.open) > 0 {
			c.finish(t, rapid.SampledFrom(w.open).Draw(t, "ending"))
		}
	case "plan":
		c.start(t)
		c.again(t)
	case "copy":
		if len(c.jobs) > 0 {
			c.step(t, rapid.SampledFrom(c.jobs).Draw(t, "job"))
		}
	case "publish":
		c.publish(t)
	case "give up":
		if len(c.jobs) > 0 {
			if j := rapid.SampledFrom(c.jobs).Draw(t, "given up"); j.stage != "" {
				c.t.Drop(j.id)
				j.id, j.stage = "", ""
			}
		}
	}
}

func oftenOf(t *rapid.T) (often []string) {
	for _, what := range []string{"begin", "write", "finish", "plan", "copy", "publish"} {
		for range rapid.SampledFrom([]int{1, 2, 6}).Draw(t, "how often "+what) {
			often = append(often, what)
		}
	}
	if rapid.Bool().Draw(t, "chunks are given up") {
		often = append(often, "give up")
	}
	return often
}

// finish brings a transaction one step nearer to its end.
func (c *copying) finish(t *rapid.T, tx *transaction) {
	switch {
	case tx.done:
		c.w.end(tx)
	case tx.prepared && tx.placed:
		tx.done = true // COMMIT PREPARED
	case tx.prepared:
		c.w.place(tx)
	case rapid.Bool().Draw(t, "two-phase"):
		tx.prepared, tx.gid = true, fmt.Sprint("gid", tx.xid)
	default:
		c.w.commit(tx)
	}
}

// settle lets the world come to rest and the copy to its end.
func (c *copying) settle(t *rapid.T) {
	for range 2000 {
		for len(c.w.open) > 0 {
			c.finish(t, c.w.open[0])
		}
		for c.at < len(c.w.order) {
			c.publish(t)
		}
		c.start(t)
		if c.complete() {
			return
		}
		c.again(t)
		for _, j := range c.jobs {
			c.step(t, j)
		}
	}
	t.Fatal("the copy does not come to its end")
}

// Random worlds, the same invariants: at every place of the order each row of the target is what it is on the source; when
// all is copied none is missing; with enough memory no chunk is read twice; at rest nothing is noted any more.
//
// Mutants that this test caught: a snapshot sees everything, nothing, what was running, one too many, or does not know numbers
// that wrapped around; unchanged TOAST not taken from the row; updates, deletes, moves, truncations not folded, a row that moved
// left where it was, or dropped; transactions that the snapshot sees folded as well; moved keys not reported, without the new
// one, or not when every chunk contains the update; notes forgotten by the newest snapshot alone, by the chunks alone, while a chunk has no snapshot
// yet, or never; a lost transaction that dooms no chunk, those taken before it was lost, or those taken after; what a
// fragment does after it was lost noted; a table without a key that loses no row, or keeps what was updated; a cut that is
// not left out of a content. What else can go wrong (definitions, limits, the old key in a
// report, waste) is for the other tests.
func TestRowsAreRightAtTheirPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		limit := rapid.SampledFrom([]int{1 << 20, 1 << 20, 700, 0}).Draw(t, "limit")
		c := &copying{
			w: w, t: New(limit), roomy: limit == 1<<20, often: oftenOf(t),
			truth: maps.Clone(w.visible), target: map[string]row{},
		}
		begin := rapid.IntRange(0, 20).Draw(t, "begin")
		for i := range rapid.IntRange(30, 200).Draw(t, "steps") {
			if i == begin {
				w.order = append(w.order, placed{mark: "begin"})
			}
			c.one(t)
		}
		c.settle(t)
		for range 30 { // what was copied stays right
			c.one(t)
		}
		c.settle(t)
		c.rest(t)
	})
}

// rest: nothing is noted any more once a snapshot has seen everything.
func (c *copying) rest(t *rapid.T) {
	s, _ := c.w.snapshot()
	c.t.Begin("last", c.w.followed())
	c.t.Taken("last", s)
	c.t.Drop("last")
	tb := c.t.tables[name{"public", "t"}]
	if c.t.Bytes() != 0 || len(tb.entries) != 0 || len(tb.lost) != 0 || len(c.t.chunks) != 0 {
		t.Fatalf("at rest %d bytes, %d entries, %d lost, %d chunks are left", c.t.Bytes(), len(tb.entries), len(tb.lost), len(c.t.chunks))
	}
}
