package copying

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"shardcdc/dumper/copier"
	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
)

func newTestEngine(t *testing.T, change func(*control.Subscription)) *Engine {
	t.Helper()
	sub := control.NewSubscription("bank", "inc", time.Unix(1_800_000_000, 0))
	sub.Shards = []control.Shard{{Name: "a"}, {Name: "b"}}
	if change != nil {
		change(sub)
	}
	e, err := New(Config{Sub: sub})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *Engine) testPart(ranges ...control.CopyRange) *part {
	p := newPart(e.shards[0], 0, &control.CopyTable{Schema: "public", Name: "t", Keyed: true, Key: []string{"id"}, Ranges: ranges})
	p.table = &copier.Table{}
	e.shards[0].install(p)
	return p
}

func (e *Engine) testPick() *chunk {
	c, _ := e.shards[0].pick(time.Now(), e.flying)
	return c
}

// came says that a chunk was read up to a key and its mark written.
func (e *Engine) came(c *chunk, id, last string, end bool) {
	c.id, c.result = id, &copier.Result{Chunk: fold.Chunk{Rows: 10}, End: end}
	if last != "" {
		c.result.Last = []string{last}
	}
	if !e.expect(c) {
		panic("stale")
	}
	if c.kind == ofRange {
		c.part.ranges[c.at].reading = false
	}
}

// Ranges are read side by side, each in order; one that cannot be folded takes back what was read behind it, and only that.
func TestRanges(t *testing.T) {
	e := newTestEngine(t, nil)
	p := e.testPart(control.CopyRange{Through: []string{"50"}}, control.CopyRange{After: []string{"50"}})
	a1, b1 := e.testPick(), e.testPick()
	if a1.at != 0 || b1.at != 1 || e.testPick() != nil {
		t.Fatal("two ranges are two chunks at the same time")
	}
	e.came(a1, "a1", "10", false)
	e.came(b1, "b1", "60", false)
	a2 := e.testPick()
	e.came(a2, "a2", "20", false)
	if p.ranges[0].after[0] != "20" || a2.then().Ranges[0].After[0] != "20" {
		t.Fatal("it goes on behind what was read")
	}
	e.drop(a1)
	if len(e.pending) != 1 || e.pending["b1"] == nil || p.ranges[0].after != nil || p.ranges[1].after[0] != "60" {
		t.Fatalf("pending %v, ranges %+v", e.pending, p.ranges)
	}
	if again := e.testPick(); again == nil || again.at != 0 || again.stale() || !a2.stale() {
		t.Fatal("the range is read again")
	}
}

// What is being published is not read again.
func TestRewindBehindWhatIsComing(t *testing.T) {
	e := newTestEngine(t, nil)
	p := e.testPart(control.CopyRange{})
	first := e.testPick()
	e.came(first, "1", "10", false)
	second := e.testPick()
	e.came(second, "2", "20", true)
	delete(e.pending, "1") // folded
	p.coming = first.then()
	e.drop(second)
	if r := p.ranges[0]; r.ended || r.after[0] != "10" {
		t.Fatalf("%+v", r)
	}
}

// No more than so many chunks of a range wait for their marks.
func TestFlying(t *testing.T) {
	e := newTestEngine(t, nil)
	e.testPart(control.CopyRange{})
	n := 0
	for c := e.testPick(); c != nil; c = e.testPick() {
		n++
		e.came(c, strconv.Itoa(n), strconv.Itoa(n), false)
	}
	if n != flyingMax {
		t.Fatalf("%d chunks", n)
	}
}

func keys(n int) (all [][]string) {
	for i := range n {
		all = append(all, []string{strconv.Itoa(i)})
	}
	return all
}

// Keys to copy again stand behind those that are being read; too many, and the part begins anew.
func TestAgain(t *testing.T) {
	e := newTestEngine(t, nil)
	p := e.testPart(control.CopyRange{After: []string{"7"}})
	add := func(n int) bool {
		next, again, anew := p.add([]move{{Moved: fold.Moved{Keys: keys(n)}}})
		if anew {
			e.restart(p, next, nil)
		} else {
			p.ledger, p.again = next, append(p.again, again...)
		}
		return anew
	}
	add(2)
	if c := e.testPick(); c.kind != ofRange {
		t.Fatal("few keys wait for the ranges")
	}
	add(againMin)
	c := e.testPick()
	if c == nil || c.kind != ofKeys || len(c.keys) != againMin+2 {
		t.Fatalf("%+v", c)
	}
	e.came(c, "k", "", true)
	add(4)
	if left := c.then().Redo; fmt.Sprint(left) != "[[0] [1] [2] [3]]" || c.then().Done {
		t.Fatalf("%v are left", left)
	}
	if !add(redoMax) || len(p.ledger.Redo) != 0 || len(p.ledger.Ranges) != 1 || p.ledger.Ranges[0].After != nil || !c.stale() || len(e.pending) != 0 {
		t.Fatalf("%+v", p.ledger)
	}
	if next, _, anew := p.add([]move{{Moved: fold.Moved{All: true}}}); !anew || next.Done {
		t.Fatalf("%+v", next)
	}
}

// Behind the ranges a row is copied again only if it may have had a key that waits for that.
func TestAgainBehindTheRanges(t *testing.T) {
	pairs := func(keys ...string) (all [][]string) {
		for _, k := range keys {
			all = append(all, []string{k})
		}
		return all
	}
	int4, int8 := moved{xid: 7, known: true, form: "23 -1,"}, moved{xid: 8, known: true, form: "20 -1,"}
	for _, tc := range []struct {
		name  string
		done  bool
		redo  string
		was   moved
		moves []move
		want  string
		anew  bool
	}{
		{name: "ranges are to come", moves: []move{{fold.Moved{Keys: pairs("1", "2")}, int4}}, want: "[[1] [2]]"},
		{name: "nothing waits", done: true, moves: []move{{fold.Moved{Keys: pairs("1", "2")}, int4}}, want: "[]"},
		{name: "others wait", done: true, redo: "5", was: int4, moves: []move{{fold.Moved{Keys: pairs("1", "2")}, int4}}, want: "[[5]]"},
		{
			name: "it waits, and goes on", done: true, redo: "5", was: int4,
			moves: []move{{fold.Moved{Keys: pairs("1", "2", "5", "6")}, int4}, {fold.Moved{Keys: pairs("6", "7", "2", "3")}, int4}}, want: "[[5] [5] [6] [6] [7]]",
		},
		{name: "the key has another type", done: true, redo: "5", was: int4, moves: []move{{fold.Moved{Keys: pairs("1", "2")}, int8}}, want: "[[5] [1] [2]]"},
		{name: "another node's", done: true, redo: "5", moves: []move{{fold.Moved{Keys: pairs("1", "2")}, int4}}, want: "[[5] [1] [2]]"},
		{name: "its type is not clear", done: true, redo: "5", was: int4, moves: []move{{fold.Moved{Keys: pairs("1", "2")}, moved{}}}, want: "[[5] [1] [2]]"},
		{name: "too many", done: true, moves: []move{{fold.Moved{All: true}, int4}}, want: "[]", anew: true},
	} {
		e := newTestEngine(t, nil)
		p := e.testPart(control.CopyRange{Done: tc.done})
		if tc.redo != "" {
			p.ledger.Redo, p.again = pairs(tc.redo), []moved{tc.was}
		}
		next, again, anew := p.add(tc.moves)
		if got := fmt.Sprint(next.Redo); got != tc.want || anew != tc.anew || !anew && len(p.again)+len(again) != len(next.Redo) || anew && len(again) == 0 {
			t.Errorf("%s: %s (%d more, anew %v), want %s", tc.name, got, len(again), anew, tc.want)
		}
	}
}

func TestFormOf(t *testing.T) {
	table := fold.Table{Schema: "public", Name: "t", Key: []string{"a", "b"}}
	relation := func(name string, modifier int32) pipeline.RelationUse {
		return pipeline.RelationUse{Relation: &pipeline.Relation{Namespace: "public", Name: name, Columns: []pipeline.Column{
			{Name: "b", Type: 1700, Modifier: modifier}, {Name: "c", Type: 25, Modifier: -1}, {Name: "a", Type: 23, Modifier: -1},
		}}}
	}
	for want, uses := range map[string][]pipeline.RelationUse{
		"23 -1,1700 6,": {relation("u", 9), relation("t", 6), relation("t", 6)},
		"":              {relation("t", 6), relation("t", 8), relation("t", 6)},
	} {
		if got := formOf(&pipeline.Fragment{Relations: uses}, table); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A key is read again only by a snapshot that sees who gave it to a row.
func TestVisible(t *testing.T) {
	e := newTestEngine(t, nil)
	p := e.testPart(control.CopyRange{Done: true})
	p.ledger.Redo, p.again = keys(1), []moved{{xid: 12, known: true}}
	c := e.testPick()
	c.result = &copier.Result{Chunk: fold.Chunk{Snapshot: fold.Snapshot{XMin: 10, XMax: 20, Running: []uint64{12}}}}
	if e.expect(c) || p.notBefore.IsZero() {
		t.Fatal("the snapshot does not see 12")
	}
	c.result.Snapshot.Running = nil
	if !e.expect(c) {
		t.Fatal("it does")
	}
}

// A part that begins anew because of rows with other keys is read by snapshots that see how these rows got them.
func TestVisibleAnew(t *testing.T) {
	e := newTestEngine(t, nil)
	p := e.testPart(control.CopyRange{})
	p.again = []moved{{xid: 12, known: true}}
	e.restart(p, p.ledger, []moved{{xid: 14, known: true}})
	c := e.testPick()
	c.result = &copier.Result{Chunk: fold.Chunk{Snapshot: fold.Snapshot{XMin: 10, XMax: 20}}}
	for _, unseen := range []uint64{12, 14} {
		c.result.Snapshot.Running = []uint64{unseen}
		if e.expect(c) || p.notBefore.IsZero() {
			t.Fatalf("the snapshot does not see %d", unseen)
		}
	}
	c.result.Snapshot.Running = []uint64{13}
	if !e.expect(c) {
		t.Fatal("it sees both")
	}
}

func TestOrder(t *testing.T) {
	e := newTestEngine(t, func(s *control.Subscription) { s.Copy.Order = []string{"public.late", "app.*"} })
	name := func(schema, table string) control.CopyTableName {
		return control.CopyTableName{Schema: schema, Name: table}
	}
	got := e.order([]planned{
		{name: name("public", "big"), keyed: true, bytes: 100},
		{name: name("public", "small"), keyed: true, bytes: 1},
		{name: name("app", "x"), keyed: true, bytes: 1000},
		{name: name("public", "late"), keyed: true, bytes: 10000},
		{name: name("public", "small"), bytes: 2},
	})
	text := ""
	for _, t := range got {
		text += fmt.Sprint(t.name, t.keyed, t.bytes, " ")
	}
	if want := "public.late true 10000 app.x true 1000 public.small false 3 public.big true 100 "; text != want {
		t.Errorf("%s, want %s", text, want)
	}
}

func TestWanted(t *testing.T) {
	e := newTestEngine(t, func(s *control.Subscription) { s.Tables = []string{"public.*", "-public.audit"} })
	for name, want := range map[string]bool{"a": true, "audit": false} {
		if got := e.wanted(control.CopyTableName{Schema: "public", Name: name}); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if e.wanted(control.CopyTableName{Schema: "app", Name: "a"}) || !newTestEngine(t, nil).wanted(control.CopyTableName{Schema: "app", Name: "a"}) {
		t.Error("another schema is wanted only where nothing was chosen")
	}
}

// A job that has begun goes on before one that has not, whenever they were made.
func TestNextJob(t *testing.T) {
	jobs := []control.CopyJob{{ID: "1", State: control.CopyDone}, {ID: "2", State: control.CopyRequested}, {ID: "3", State: control.CopyRequested}, {ID: "4", State: control.CopyCopying}}
	for _, test := range []struct {
		ended []string
		want  string
	}{{nil, "4"}, {[]string{"4"}, "2"}, {[]string{"4", "2"}, "3"}, {[]string{"4", "2", "3"}, ""}} {
		ended := map[string]bool{}
		for _, id := range test.ended {
			ended[id] = true
		}
		got := ""
		if j := next(jobs, ended); j != nil {
			got = j.ID
		}
		if got != test.want {
			t.Errorf("after %v: %q, want %q", test.ended, got, test.want)
		}
	}
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100)
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(b.take(t.Context(), 1000)) // alone it may exceed it
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.take(short, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, func() { b.add(-950) })
		began := time.Now()
		must(b.take(t.Context(), 50))
		if time.Since(began) != time.Minute {
			t.Fatal("it did not wait")
		}
	})
}

func TestPercent(t *testing.T) {
	for _, test := range []struct {
		bytes, estimate int64
		parts, of       int
		done            bool
		want            float64
	}{{0, 0, 0, 0, false, 0}, {50, 200, 0, 4, false, 25}, {300, 200, 3, 4, false, 99}, {0, 0, 1, 4, false, 25}, {0, 0, 4, 4, true, 100}} {
		if got := percent(test.bytes, test.estimate, test.parts, test.of, test.done); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}
