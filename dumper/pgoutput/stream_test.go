package pgoutput_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"shardcdc/dumper/pgoutput"
	"shardcdc/pipeline"
)

func streamStart(xid int, first bool) []byte {
	if first {
		return build('S', xid, byte(1))
	}
	return build('S', xid, byte(0))
}

func streamStop() []byte              { return []byte{'E'} }
func streamAbort(xid, sub int) []byte { return build('A', xid, sub) }
func streamCommit(xid int, l pipeline.LSN) []byte {
	return build('c', xid, byte(0), l, l+recordSize, clock(l))
}

func streamPrepare(xid int, l pipeline.LSN, gid string) []byte {
	return build('p', byte(0), l, l+recordSize, clock(l), xid, gid)
}

// by puts the number of a (sub)transaction into a message.
func by(xid int, msg []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{msg[0]}, uint32(xid)), msg[1:]...)
}

// buffer is a Spill in memory that checks how it is used.
type buffer struct {
	bytes.Buffer
	sealed, parked bool
	released       int
	fail           error
}

func (b *buffer) Size() int64 { return int64(b.Len()) }
func (b *buffer) Write(p []byte) (int, error) {
	if b.fail != nil {
		return 0, b.fail
	}
	if b.sealed || b.released > 0 {
		panic("written after its end")
	}
	b.parked = false
	return b.Buffer.Write(p)
}

func (b *buffer) Truncate(size int64) error {
	b.Buffer.Truncate(int(size))
	return b.fail
}
func (b *buffer) Park() error { b.parked = true; return b.fail }
func (b *buffer) Seal() error { b.sealed = true; return b.fail }
func (b *buffer) Release()    { b.released++ }
func (b *buffer) Open() (io.ReadCloser, error) {
	if !b.sealed || b.released > 0 {
		return nil, errors.New("not to be opened")
	}
	return io.NopCloser(bytes.NewReader(b.Bytes())), nil
}

// spilled are limits, and the spills made.
func spilled(after, open int) (pgoutput.Limits, *[]*buffer) {
	made := new([]*buffer)
	return pgoutput.Limits{SpillAfter: after, OpenMax: open, Spill: func() (pgoutput.Spill, error) {
		b := &buffer{}
		*made = append(*made, b)
		return b, nil
	}}, made
}

func contents(t testing.TB, recs []pipeline.Record) (out []string) {
	t.Helper()
	for _, rec := range recs {
		line := rec.Kind.String()
		if rec.GID != "" {
			line += " " + rec.GID
		}
		if f := rec.Fragment; f != nil {
			line += fmt.Sprintf(" %d %s", f.XID, f.Origin)
			n := 0
			if err := f.Walk(func(c *pipeline.Change) error {
				n++
				line += ", " + change(c)
				return nil
			}); err != nil {
				t.Error(err)
			}
			if n != f.Changes {
				t.Errorf("%d changes of %d", n, f.Changes)
			}
		}
		out = append(out, line)
	}
	return out
}

// TestStreamed: every message in its right place.
func TestStreamed(t *testing.T) {
	rel, other := relation(1, "public.a", "x"), relation(1, "public.a", "x", "y")
	a := pgoutput.New(0, pgoutput.Limits{})
	recs := feed(t, a,
		streamStart(10, true), origin("there"), by(10, rel), by(10, insert(1, "1")), by(11, insert(1, "gone")), streamStop(),
		streamStart(20, true), by(20, typ(16400, "public", "mood")), by(20, other), by(20, insert(1, "2", "2")), streamStop(),
		rel, begin(0x100), insert(1, "3"), commit(0x100),
		streamAbort(10, 11), streamAbort(10, 12),
		streamStart(10, false), by(10, rel), by(13, message(1, "app", "said")), by(13, truncate(1)), streamStop(),
		beginPrepare(0x200, "g"), prepare(0x200, "g"), commitPrepared(0x300, "g"),
		message(0, "app", "loose"),
		streamCommit(10, 0x400),
		streamStart(30, true), by(30, message(1, "cdc.x", "own")), by(31, rel), by(31, deleteKey(1, "4")), streamStop(),
		streamStart(40, true), by(40, rel), by(40, insert(1, "5")), streamStop(), streamAbort(40, 40),
		streamPrepare(20, 0x500, "big"), rollbackPrepared(0x500+recordSize, 0x600, "big"),
		streamAbort(30, 31), streamCommit(30, 0x700),
		begin(0x800), insert(1, "6"), commit(0x800))
	want := []string{
		"commit 700 , insert public.a 3", "prepare g 700 ", "commit prepared g",
		"commit 10 there, insert public.a 1, message app said, truncate public.a flags 1",
		"prepare big 20 , insert public.a 2, 2", "rollback prepared big", "commit 30 ", "commit 700 , insert public.a 6",
	}
	if d := cmp.Diff(want, contents(t, recs)); d != "" {
		t.Error(d)
	}
	f := recs[3].Fragment
	if f.Start != 0x400 || f.End != 0x400+recordSize || f.Time != clock(0x400) || len(f.Relations) != 1 {
		t.Errorf("%+v", f)
	}
	if held := a.Held(); held != (pgoutput.Held{}) {
		t.Errorf("held %+v", held)
	}
}

func TestStreamedRelations(t *testing.T) {
	one, two := relation(1, "public.a", "x"), relation(1, "public.a", "x", "y")
	block := func(xid int, first bool, msgs ...[]byte) [][]byte {
		out := [][]byte{streamStart(xid, first)}
		for _, m := range msgs {
			out = append(out, by(xid, m))
		}
		return append(out, streamStop())
	}
	join := func(parts ...any) (out [][]byte) {
		for _, p := range parts {
			switch p := p.(type) {
			case []byte:
				out = append(out, p)
			case [][]byte:
				out = append(out, p...)
			}
		}
		return out
	}
	for _, test := range []struct {
		name string
		msgs [][]byte
		want string // of the last message; empty: it is right
	}{
		{"a block does not see the session's", join(one, streamStart(10, true), by(10, insert(1, "1"))), "never described"},
		{"the session does not see a block's", join(block(10, true, one), begin(0x100), insert(1, "1")), "never described"},
		{"nor does another", join(block(10, true, one), streamStart(20, true), by(20, insert(1, "1"))), "never described"},
		{"the next block does", join(block(10, true, one), streamStart(10, false), by(10, insert(1, "1"))), ""},
		{"after a commit the session does", join(block(10, true, one), streamCommit(10, 0x100), begin(0x200), insert(1, "1")), ""},
		{"after a prepare not", join(block(10, true, one), streamPrepare(10, 0x100, "g"), begin(0x200), insert(1, "1")), "never described"},
		{"after an abort not", join(block(10, true, one), streamAbort(10, 10), begin(0x200), insert(1, "1")), "never described"},
		{"after a subtransaction's abort it is described again", join(block(10, true, one), streamAbort(10, 11), streamStart(10, false), by(10, insert(1, "1"))), "never described"},
		{"and the session does not learn what is to be described again", join(block(10, true, one), streamAbort(10, 11), streamCommit(10, 0x100), begin(0x200), insert(1, "1")), "never described"},
		{"what the session got later stays", join(block(10, true, one), two, streamCommit(10, 0x100), begin(0x200), insert(1, "1", "2")), ""},
		{"what the block got later counts", join(two, block(10, true, one), streamCommit(10, 0x100), begin(0x200), insert(1, "1")), ""},
		{"the later of two blocks counts", join(block(10, true, one), block(20, true, two), streamCommit(20, 0x100), streamCommit(10, 0x200), begin(0x300), insert(1, "1", "2")), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := pgoutput.New(0, pgoutput.Limits{})
			last := len(test.msgs) - 1
			feed(t, a, test.msgs[:last]...)
			_, _, err := a.Feed(0, scratch(test.msgs[last]))
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// TestRolledBackUses: what is described again after a rollback is the same version, and listed where it is used.
func TestRolledBackUses(t *testing.T) {
	rel, other := relation(1, "public.a", "x"), relation(2, "public.b", "x")
	a := pgoutput.New(0, pgoutput.Limits{})
	f := feed(t, a,
		streamStart(10, true), by(10, rel), by(10, insert(1, "1")), by(11, other), by(11, insert(2, "2")), streamStop(), streamAbort(10, 11),
		streamStart(10, false), by(10, rel), by(10, insert(1, "3")), by(10, other), by(10, insert(2, "4")), streamStop(), streamCommit(10, 0x100))[0].Fragment
	size := int64(4 + len(insert(1, "1")))
	if len(f.Relations) != 2 || f.Relations[0].Offset != 0 || f.Relations[1].Offset != 2*size {
		t.Errorf("%+v", f.Relations)
	}
	if len(a.Kept()) > 0 {
		t.Errorf("kept %v", a.Kept())
	}
	// The subtransaction changed the table, and is gone.
	f = feed(t, a,
		streamStart(20, true), by(20, relation(3, "public.c", "x")), by(20, insert(3, "1")), by(21, relation(3, "public.c", "x", "y")), by(21, insert(3, "2", "2")), streamStop(), streamAbort(20, 21),
		streamStart(20, false), by(20, relation(3, "public.c", "x")), by(22, insert(3, "3")), streamStop(), streamCommit(20, 0x200))[0].Fragment
	if len(f.Relations) != 1 || f.Changes != 2 {
		t.Errorf("%+v", f.Relations)
	}
	if d := cmp.Diff([]pipeline.XID{22}, a.Kept()); d != "" {
		t.Error(d)
	}
}

// TestRolledBackDecision: a gid that a subtransaction decided, and that was rolled back, is not decided.
func TestRolledBackDecision(t *testing.T) {
	rel := relation(2, ".pg_dist_transaction", "gid")
	f := feed(t, pgoutput.New(0, pgoutput.Limits{}),
		streamStart(10, true), by(10, rel), by(10, insert(2, "kept")), by(11, insert(2, "gone")), streamStop(), streamAbort(10, 11),
		streamStart(10, false), by(10, rel), by(12, insert(2, "kept, too")), streamStop(), streamCommit(10, 0x100))[0].Fragment
	if d := cmp.Diff([]string{"kept", "kept, too"}, f.Decides); d != "" || f.Changes != 0 {
		t.Error(f.Changes, d)
	}
}

func TestRefusedInStreams(t *testing.T) {
	rel := relation(1, "public.a", "x")
	for _, test := range []struct {
		name string
		msgs [][]byte
		want string
	}{
		{"start in a block", [][]byte{streamStart(1, true), streamStart(2, true)}, "inside a transaction"},
		{"start in a transaction", [][]byte{begin(1), streamStart(2, true)}, "inside a transaction"},
		{"start again", [][]byte{streamStart(1, true), streamStop(), streamStart(1, true)}, "begins again"},
		{"goes on without a beginning", [][]byte{streamStart(1, false)}, "without a beginning"},
		{"odd first", [][]byte{build('S', 1, byte(2))}, "first segment: 2"},
		{"long start", [][]byte{build('S', 1, byte(1), byte(1))}, "1 bytes too many"},
		{"stop outside", [][]byte{streamStop()}, "without the S before"},
		{"stop of a transaction", [][]byte{begin(1), streamStop()}, "without the S before"},
		{"long stop", [][]byte{streamStart(1, true), {'E', 0}}, "1 bytes too many"},
		{"begin in a block", [][]byte{streamStart(1, true), begin(1)}, "inside a transaction"},
		{"commit in a block", [][]byte{streamStart(1, true), commit(1)}, "without the B before"},
		{"stream commit in a block", [][]byte{streamStart(1, true), streamCommit(1, 1)}, "inside a transaction"},
		{"stream prepare in a block", [][]byte{streamStart(1, true), streamPrepare(1, 1, "g")}, "inside a transaction"},
		{"abort in a block", [][]byte{streamStart(1, true), streamAbort(1, 1)}, "inside a transaction"},
		{"second phase in a block", [][]byte{streamStart(1, true), commitPrepared(1, "g")}, "inside a transaction"},
		{"abort of nothing", [][]byte{streamAbort(1, 1)}, "nothing was received of xid 1"},
		{"abort after the end", [][]byte{streamStart(1, true), streamStop(), streamAbort(1, 1), streamAbort(1, 1)}, "nothing was received of xid 1"},
		{"commit of nothing", [][]byte{streamCommit(1, 1)}, "nothing was received of xid 1"},
		{"prepare of nothing", [][]byte{streamPrepare(1, 1, "g")}, "nothing was received of xid 1"},
		{"prepare without gid", [][]byte{streamStart(1, true), streamStop(), streamPrepare(1, 1, "")}, "gid is empty"},
		{"commit backwards", [][]byte{streamStart(1, true), streamStop(), build('c', 1, byte(0), pipeline.LSN(5), pipeline.LSN(5), clock(1))}, "from 0/5 to 0/5"},
		{"prepare backwards", [][]byte{streamStart(1, true), streamStop(), build('p', byte(0), pipeline.LSN(5), pipeline.LSN(4), clock(1), 1, "g")}, "from 0/5 to 0/4"},
		{"commit flags", [][]byte{streamStart(1, true), streamStop(), build('c', 1, byte(8), pipeline.LSN(5), pipeline.LSN(6), clock(1))}, "unknown flags 0x8"},
		{"parallel abort", [][]byte{streamStart(1, true), streamStop(), build('A', 1, 1, pipeline.LSN(5), clock(1))}, "16 bytes too many"},
		{"row without number", [][]byte{streamStart(1, true), {'I', 0, 0}}, "too short"},
		{"row of another form", [][]byte{streamStart(1, true), by(1, rel), insert(1, "1")}, "insert"},
		{"loose message in a block", [][]byte{streamStart(1, true), by(1, message(0, "a", "b"))}, "inside a transaction"},
		{"origin in the second block", [][]byte{streamStart(1, true), streamStop(), streamStart(1, false), origin("n")}, "not directly after the begin"},
		{"row between blocks", [][]byte{streamStart(1, true), by(1, rel), streamStop(), by(1, insert(1, "1"))}, "outside a transaction"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := pgoutput.New(0, pgoutput.Limits{})
			last := len(test.msgs) - 1
			feed(t, a, test.msgs[:last]...)
			_, ok, err := a.Feed(0x42, scratch(test.msgs[last]))
			if err == nil || ok || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// TestPreparedBefore: the content of a transaction whose PREPARE came in an earlier session goes with its second phase.
func TestPreparedBefore(t *testing.T) {
	limits, made := spilled(1, 1<<20)
	a := pgoutput.New(0, limits)
	feed(t, a, streamStart(700, true), by(700, relation(1, "public.a", "x")), by(700, insert(1, "1")), streamStop(), commitPrepared(0x100, "g"))
	if a.Held() != (pgoutput.Held{}) || (*made)[0].released != 1 {
		t.Errorf("held %+v", a.Held())
	}
}

// TestSpilling: which bodies leave memory, and what becomes of them.
func TestSpilling(t *testing.T) {
	rel, row := relation(1, "public.a", "x"), insert(1, "0123456789")
	size := 4 + len(row)
	limits, made := spilled(3*size, 5*size)
	a := pgoutput.New(0, limits)
	held := func(transactions, inMemory, out int) {
		t.Helper()
		h := a.Held()
		if h.Transactions != transactions || h.Bytes != int64((inMemory+out)*size) || h.Spilled != int64(out*size) {
			t.Errorf("held %+v, want %d transactions, %d rows in memory, %d not", h, transactions, inMemory, out)
		}
	}
	rows := func(n int, msg []byte) [][]byte { return slices.Repeat([][]byte{msg}, n) }
	feed(t, a, rel, begin(0x100))
	feed(t, a, rows(3, row)...)
	held(1, 3, 0)
	feed(t, a, row)
	held(1, 0, 4)
	rec := feed(t, a, commit(0x100))[0]
	held(0, 0, 0)
	if rec.Fragment.Content != (*made)[0] || rec.Fragment.Body != nil || rec.Fragment.Size() != int64(4*size) || (*made)[0].released != 0 {
		t.Errorf("%+v", rec.Fragment)
	}
	contents(t, []pipeline.Record{rec})

	// Together too large: the largest goes, and a small transaction stays in memory.
	feed(t, a, streamStart(10, true), by(10, rel))
	feed(t, a, rows(3, by(10, row))...)
	feed(t, a, streamStop(), streamStart(20, true), by(20, rel), by(21, row), by(20, row), streamStop())
	held(2, 5, 0)
	feed(t, a, begin(0x200), row)
	held(3, 3, 3)
	if !(*made)[1].parked {
		t.Error("the body that is not written to was not parked")
	}
	if rec := feed(t, a, commit(0x200))[0]; rec.Fragment.Content != nil {
		t.Error("a small transaction was spilled")
	}
	feed(t, a, streamStart(10, false), by(11, row), by(10, row))
	held(2, 2, 5)
	feed(t, a, streamStop(), streamAbort(10, 11))
	held(2, 2, 3)
	feed(t, a, streamAbort(20, 21))
	held(2, 0, 3)
	if rec := feed(t, a, streamCommit(20, 0x300))[0]; rec.Fragment.Body != nil || rec.Fragment.Changes != 0 {
		t.Errorf("%+v", rec.Fragment)
	}
	a.Reset()
	held(0, 0, 0)
	if (*made)[1].released != 1 || len(*made) != 2 {
		t.Errorf("%d spills, released %d times", len(*made), (*made)[1].released)
	}

	// A spilled body without changes has no content.
	feed(t, a, streamStart(30, true), by(30, rel))
	feed(t, a, rows(4, by(31, row))...)
	feed(t, a, streamStop(), streamAbort(30, 31))
	rec = feed(t, a, streamPrepare(30, 0x400, "g"))[0]
	if rec.Fragment.Content != nil || (*made)[2].released != 1 {
		t.Errorf("%+v, released %d times", rec.Fragment, (*made)[2].released)
	}
}

func TestSpillErrors(t *testing.T) {
	rel, row := relation(1, "public.a", "x"), insert(1, "0123456789")
	full := errors.New("full")
	for name, last := range map[string][][]byte{
		"write": {streamStart(10, false), by(10, row)}, "park": {streamStart(10, false), streamStop()}, "truncate": {streamAbort(10, 11)}, "seal": {streamCommit(10, 0x100)},
	} {
		limits, made := spilled(1, 1000)
		a := pgoutput.New(0, limits)
		feed(t, a, streamStart(10, true), by(10, rel), by(11, row), streamStop())
		(*made)[0].fail = full
		feed(t, a, last[:len(last)-1]...)
		_, ok, err := a.Feed(0, last[len(last)-1])
		var spill *pgoutput.SpillError
		if ok || !errors.As(err, &spill) || spill.XID != 10 || !errors.Is(err, full) {
			t.Errorf("%s: %v", name, err)
		}
		a.Reset()
		if (*made)[0].released != 1 {
			t.Errorf("%s: released %d times", name, (*made)[0].released)
		}
	}
	a := pgoutput.New(0, pgoutput.Limits{SpillAfter: 1, Spill: func() (pgoutput.Spill, error) { return nil, full }})
	feed(t, a, rel, begin(0x100))
	if _, _, err := a.Feed(0, row); !errors.Is(err, full) {
		t.Errorf("make: %v", err)
	}
	a.Reset()
}

// world is a model of a server with large transactions: each a tree of subtransactions.
type world struct {
	t    *rapid.T
	wire [][]byte
	xid  int
	row  int
	open []*tree
	want map[int][]string
}

// node is a (sub)transaction: rows and children in their order.
type node struct {
	xid   int
	items []any // string or *node
}

type tree struct {
	path    []*node // from the top to the present one
	pending [][]byte
	started bool
	sent    map[int]bool // subtransactions with rows on the wire
}

func (n *node) rows() (out []string) {
	for _, item := range n.items {
		switch item := item.(type) {
		case string:
			out = append(out, item)
		case *node:
			out = append(out, item.rows()...)
		}
	}
	return out
}

// xids lists the descendants first.
func (n *node) xids() (out []int) {
	for _, item := range n.items {
		if child, ok := item.(*node); ok {
			out = append(out, child.xids()...)
		}
	}
	return append(out, n.xid)
}

func (w *world) step(tr *tree) {
	top, now := tr.path[0], tr.path[len(tr.path)-1]
	switch rapid.SampledFrom([]string{"row", "row", "row", "savepoint", "release", "rollback", "block", "end"}).Draw(w.t, "step") {
	case "row":
		w.row++
		v := fmt.Sprintf("%d%s", w.row, strings.Repeat("x", rapid.IntRange(0, 40).Draw(w.t, "width")))
		now.items = append(now.items, v)
		tr.pending = append(tr.pending, by(now.xid, insert(1, v)))
	case "savepoint":
		w.xid++
		child := &node{xid: w.xid}
		now.items = append(now.items, child)
		tr.path = append(tr.path, child)
	case "release":
		if len(tr.path) > 1 {
			tr.path = tr.path[:len(tr.path)-1]
		}
	case "rollback":
		if len(tr.path) == 1 {
			return
		}
		depth := rapid.IntRange(1, len(tr.path)-1).Draw(w.t, "depth")
		gone, parent := tr.path[depth], tr.path[depth-1]
		parent.items = parent.items[:slices.Index(parent.items, any(gone))]
		tr.path = tr.path[:depth]
		w.rollBack(tr, top.xid, gone.xids())
	case "block":
		w.block(tr)
	case "end":
		w.end(tr)
	}
}

// rollBack drops what was not sent, and announces the rest.
func (w *world) rollBack(tr *tree, top int, gone []int) {
	tr.pending = slices.DeleteFunc(tr.pending, func(msg []byte) bool {
		return slices.Contains(gone, int(binary.BigEndian.Uint32(msg[1:])))
	})
	for _, xid := range gone {
		if tr.sent[xid] {
			w.wire = append(w.wire, streamAbort(top, xid))
		}
	}
}

func (w *world) block(tr *tree) {
	if len(tr.pending) == 0 {
		return
	}
	top := tr.path[0].xid
	w.wire = append(w.wire, streamStart(top, !tr.started), by(top, relation(1, "public.a", "x")))
	w.wire = append(append(w.wire, tr.pending...), streamStop())
	for _, msg := range tr.pending {
		tr.sent[int(binary.BigEndian.Uint32(msg[1:]))] = true
	}
	tr.pending, tr.started = nil, true
}

func (w *world) end(tr *tree) {
	w.block(tr)
	if !tr.started {
		return
	}
	w.open = slices.DeleteFunc(w.open, func(o *tree) bool { return o == tr })
	top := tr.path[0]
	at := pipeline.LSN(len(w.wire)+1) * 0x100
	switch rapid.SampledFrom([]string{"commit", "prepare", "abort"}).Draw(w.t, "end") {
	case "commit":
		w.wire = append(w.wire, streamCommit(top.xid, at))
	case "prepare":
		w.wire = append(w.wire, streamPrepare(top.xid, at, fmt.Sprint(top.xid)))
	case "abort":
		w.rollBack(tr, top.xid, top.xids()[:len(top.xids())-1])
		w.wire = append(w.wire, streamAbort(top.xid, top.xid))
		return
	}
	w.want[top.xid] = top.rows()
}

// TestTrees: whatever subtransactions do, and wherever the blocks are cut, what is left is what the tree holds. In
// memory and spilled.
func TestTrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, xid: 100, want: make(map[int][]string)}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			if len(w.open) == 0 || len(w.open) < 4 && rapid.IntRange(0, 15).Draw(t, "begin") == 0 {
				w.xid++
				w.open = append(w.open, &tree{path: []*node{{xid: w.xid}}, sent: make(map[int]bool)})
			}
			w.step(rapid.SampledFrom(w.open).Draw(t, "transaction"))
		}
		for len(w.open) > 0 {
			tr := w.open[0]
			if w.end(tr); !tr.started {
				w.open = w.open[1:]
			}
		}
		limits, made := spilled(rapid.IntRange(1, 500).Draw(t, "spill after"), rapid.IntRange(1, 1000).Draw(t, "open"))
		if rapid.Bool().Draw(t, "in memory") {
			limits.Spill = nil
		}
		a := pgoutput.New(0, limits)
		got := make(map[int][]string)
		var contents []pipeline.Content
		for _, msg := range w.wire {
			rec, ok, err := a.Feed(0, scratch(msg))
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				continue
			}
			if f := rec.Fragment; f.Content != nil {
				contents = append(contents, f.Content)
			}
			rows := []string(nil)
			if err := rec.Fragment.Walk(func(c *pipeline.Change) error {
				rows = append(rows, string(c.New.Values(nil)[0].Data))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if len(rec.Fragment.Relations) > 1 || rec.Fragment.Changes != len(rows) {
				t.Fatalf("%d relations, %d changes of %d", len(rec.Fragment.Relations), rec.Fragment.Changes, len(rows))
			}
			got[int(rec.XID)] = rows
		}
		if d := cmp.Diff(w.want, got); d != "" {
			t.Fatal(d)
		}
		if a.Held() != (pgoutput.Held{}) {
			t.Fatalf("held %+v", a.Held())
		}
		for _, b := range *made {
			if (b.released == 0) != slices.Contains(contents, pipeline.Content(b)) {
				t.Fatal("a body that is in no record was not released, or one that is was")
			}
		}
	})
}
