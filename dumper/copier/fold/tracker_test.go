package fold

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

func TestSnapshot(t *testing.T) {
	const epoch = 1 << 32
	for _, test := range []struct {
		text string
		xid  pipeline.XID
		sees bool
	}{
		{"10:20:10,14", 9, true},
		{"10:20:10,14", 10, false},
		{"10:20:10,14", 13, true},
		{"10:20:10,14", 14, false},
		{"10:20:10,14", 19, true},
		{"10:20:10,14", 20, false},
		{"10:20:", 10, true},
		{"10:10:", 10, false},
		{fmt.Sprintf("%d:%d:", 3*epoch+5, 3*epoch+5), 4, true},
		{fmt.Sprintf("%d:%d:", 3*epoch+5, 3*epoch+5), math.MaxUint32, true},
		{fmt.Sprintf("%d:%d:%d", 3*epoch-1, 3*epoch+5, uint64(3*epoch-1)), math.MaxUint32, false},
		{fmt.Sprintf("%d:%d:", uint64(3*epoch-1), uint64(3*epoch-1)), 3, false},
		{"700:700:", math.MaxUint32, false},
	} {
		s, err := ParseSnapshot(test.text)
		if err != nil {
			t.Fatal(err)
		}
		if s.String() != test.text || s.Sees(test.xid) != test.sees {
			t.Errorf("snapshot %s (read as %s) sees %d: %v", test.text, s, test.xid, s.Sees(test.xid))
		}
	}
	if (Snapshot{}).Sees(0) || (Snapshot{}).Sees(1<<31) || (Snapshot{}).Sees(math.MaxUint32) {
		t.Error("no snapshot sees something")
	}
	for _, text := range []string{"", "1:2", "1:2:3:4", "a:2:", "1:2:x", "3:2:", "0:0:", "-1:2:", "1:2:3,"} {
		if _, err := ParseSnapshot(text); err == nil || !strings.Contains(err.Error(), "snapshot") {
			t.Errorf("snapshot %q: %v", text, err)
		}
	}
}

// tables makes a Tracker that follows tables of these names by the column id.
func tables(limit int, names ...string) (*Tracker, []Table) {
	tr := New(limit)
	var all []Table
	for _, n := range names {
		all = append(all, Table{Schema: "public", Name: n, Key: []string{"id"}})
		tr.Follow(all[len(all)-1])
	}
	return tr, all
}

// inserts is a fragment with n rows of some bytes in a table.
func inserts(xid pipeline.XID, table string, n, bytes int) *pipeline.Fragment {
	r := *describe(true, false)
	r.Name = table
	f := &pipeline.Fragment{XID: xid, Relations: []pipeline.RelationUse{{Relation: &r}}}
	for i := range n {
		row := tupleOf(fmt.Sprintf("%d,1,%s", i, strings.Repeat("x", bytes)))
		f.Append(append(append(appendLength([]byte{'I'}, int(r.ID)), 'N'), row...))
	}
	return f
}

// updates is a fragment that gives n rows another key.
func updates(xid pipeline.XID, table string, n, bytes int) *pipeline.Fragment {
	r := *describe(true, false)
	r.Name = table
	f := &pipeline.Fragment{XID: xid, Relations: []pipeline.RelationUse{{Relation: &r}}}
	for i := range n {
		msg := append(append(appendLength([]byte{'U'}, int(r.ID)), 'K'), tupleOf(fmt.Sprintf(`%d,\N,\N`, i))...)
		f.Append(append(append(msg, 'N'), tupleOf(fmt.Sprintf("%d%s,1,~", i, strings.Repeat("x", bytes)))...))
	}
	return f
}

func take(t testing.TB, tr *Tracker, f *pipeline.Fragment) []Moved {
	t.Helper()
	moved, err := tr.Take(f)
	if err != nil {
		t.Fatal(err)
	}
	return moved
}

// again folds an empty chunk, and says whether it has to be read again.
func again(t *testing.T, tr *Tracker, id string, tb Table, s Snapshot) bool {
	t.Helper()
	r := *describe(true, false)
	r.Name = tb.Name
	err := tr.Fold(&Chunk{ID: id, Table: tb, Relation: &r, Snapshot: s}, &pipeline.Fragment{})
	if err != nil && !errors.Is(err, ErrAgain) {
		t.Fatal(err)
	}
	return err != nil
}

func TestTheTableThatTakesMostLosesItsNotes(t *testing.T) {
	tr, tb := tables(10000, "small", "large")
	s := Snapshot{XMin: 10, XMax: 10}
	for i, id := range []string{"s", "l"} {
		tr.Begin(id, tb[i])
		tr.Taken(id, s)
	}
	// It sees the last transaction of the large table, but not the first.
	late := Snapshot{XMin: 10, XMax: 13, Running: []uint64{10}}
	tr.Begin("late", tb[1])
	tr.Taken("late", late)
	take(t, tr, inserts(10, "large", 10, 500))
	take(t, tr, inserts(11, "small", 2, 10))
	take(t, tr, inserts(12, "large", 2, 500))
	take(t, tr, inserts(13, "small", 15, 100)) // over the limit
	if got := tr.Bytes(); got == 0 || got > 10000 {
		t.Errorf("%d bytes are noted", got)
	}
	if again(t, tr, "s", tb[0], s) {
		t.Error("the chunk of the small table has to be read again")
	}
	if !again(t, tr, "l", tb[1], s) || !again(t, tr, "late", tb[1], late) {
		t.Error("the chunk of the large table was folded without its notes")
	}
}

// One fragment of any size takes no more than the limit: the walk ends when nothing can be noted any more.
func TestHugeFragmentIsNotHeld(t *testing.T) {
	tr, tb := tables(1000, "t")
	f := inserts(10, "t", 1000, 100)
	counting := &counted{elsewhere: elsewhere{b: f.Body, step: 1000}}
	f.Content, f.Body = counting, nil
	take(t, tr, f)
	if counting.read > len(counting.b)/10 {
		t.Errorf("%d of %d bytes were read", counting.read, len(counting.b))
	}
	s := Snapshot{XMin: 10, XMax: 10}
	tr.Begin("c", tb[0])
	tr.Taken("c", s)
	if tr.Bytes() != 0 || !again(t, tr, "c", tb[0], s) {
		t.Errorf("%d bytes are noted", tr.Bytes())
	}
	// Once everything sees it, it need not be read at all.
	s = Snapshot{XMin: 11, XMax: 11}
	tr.Begin("c", tb[0])
	tr.Taken("c", s)
	counting.read = 0
	take(t, tr, f)
	if counting.read != 0 || again(t, tr, "c", tb[0], s) {
		t.Errorf("%d bytes were read of what the chunk contains", counting.read)
	}
}

func TestTooManyMovedRows(t *testing.T) {
	tr, _ := tables(1<<20, "t")
	if m := take(t, tr, updates(10, "t", 50, 1000)); len(m) != 1 || m[0].All || len(m[0].Keys) != 100 {
		t.Errorf("moved: %v", m)
	}
	if m := take(t, tr, updates(11, "t", 500, 1000)); len(m) != 1 || !m[0].All || m[0].Keys != nil {
		t.Errorf("moved: all %v, %d keys", m[0].All, len(m[0].Keys))
	}
}

// More lost transactions than are remembered one by one.
func TestCrowd(t *testing.T) {
	tr, tb := tables(0, "t")
	const first = math.MaxUint32 - 2000 // they wrap around
	last := uint64(first) + lostMax + 1000
	for i := range uint32(lostMax + 1000) {
		take(t, tr, inserts(first+pipeline.XID(i), "t", 1, 1))
	}
	if n := len(tr.tables[name{"public", "t"}].lost); n > lostMax {
		t.Errorf("%d are remembered", n)
	}
	for _, s := range []Snapshot{
		{XMin: first, XMax: first},
		{XMin: last - 1500, XMax: last, Running: []uint64{last - 1500}},
	} {
		tr.Begin("c", tb[0])
		tr.Taken("c", s)
		if !again(t, tr, "c", tb[0], s) {
			t.Errorf("a chunk in snapshot %s was folded", s)
		}
	}
	s := Snapshot{XMin: last, XMax: last}
	tr.Begin("c", tb[0])
	tr.Taken("c", s)
	if again(t, tr, "c", tb[0], s) || tr.tables[name{"public", "t"}].crowded {
		t.Error("a chunk that sees all was not folded")
	}
}

func TestChunksThatAreNotWhatTheySay(t *testing.T) {
	good := append(append(appendLength([]byte{'C'}, 4711), 'N'), tupleOf("a,1,A")...)
	message := func(msg []byte) []byte { return append(appendLength(nil, len(msg)), msg...) }
	for _, test := range []struct {
		name string
		body []byte
		rows int
		want string
	}{
		{"cut off in a length", []byte{0, 0}, 1, "byte 0: the body is cut off"},
		{"cut off in a row", append(message(good), message(good)[:20]...), 2, "byte 30: the body is cut off"},
		{"an insert", message(append([]byte{'I'}, good[1:]...)), 1, "byte 0: insert of relation 4711 with 3 columns is no row of relation 4711 with 3"},
		{"another relation", message(append(append(appendLength([]byte{'C'}, 1), 'N'), tupleOf("a,1,A")...)), 1, "relation 1 with 3"},
		{"another width", message(append(append(appendLength([]byte{'C'}, 4711), 'N'), tupleOf("a,1")...)), 1, "with 2 columns"},
		{"no message", message([]byte{1}), 1, "byte 0: change: "},
		{"two rows with a key", append(message(good), message(good)...), 2, "two rows have the key"},
		{"a key that is NULL", message(append(append(appendLength([]byte{'C'}, 4711), 'N'), tupleOf(`\N,1,A`)...)), 1, "no text for its key"},
		{"fewer rows", message(good), 2, "it has 1 rows, not 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, content := range []bool{false, true} {
				tr, tb := tables(1<<20, "t")
				s := Snapshot{XMin: 10, XMax: 10}
				tr.Begin("c", tb[0])
				tr.Taken("c", s)
				f := inserts(10, "t", 1, 1)
				f.Body, f.Changes = nil, 0
				f.Append(append(append(appendLength([]byte{'D'}, 4711), 'K'), tupleOf(`a,\N,\N`)...))
				take(t, tr, f)
				c := &Chunk{ID: "c", Table: tb[0], Relation: describe(true, false), Snapshot: s, Body: test.body, Rows: test.rows}
				if content {
					c.Body, c.Content = nil, &elsewhere{b: test.body, step: 5}
				}
				into := &pipeline.Fragment{Body: []byte("as it was")}
				err := tr.Fold(c, into)
				if want := "chunk c of public.t: "; err == nil || errors.Is(err, ErrAgain) || !strings.HasPrefix(err.Error(), want) || !content && !strings.Contains(err.Error(), test.want) {
					t.Errorf("content %v: %v\nwant %s… %s", content, err, want, test.want)
				}
				if string(into.Body) != "as it was" || into.Content != nil || into.Changes != 0 {
					t.Error("the fragment was changed")
				}
			}
		})
	}
}

func TestContentThatCannotBeRead(t *testing.T) {
	tr, tb := tables(1<<20, "t")
	s := Snapshot{XMin: 10, XMax: 10}
	tr.Begin("c", tb[0])
	tr.Taken("c", s)
	take(t, tr, updates(10, "t", 1, 1))
	c := &Chunk{ID: "c", Table: tb[0], Relation: describe(true, false), Snapshot: s, Content: &elsewhere{released: true}, Rows: 1}
	if err := tr.Fold(c, &pipeline.Fragment{}); err == nil || errors.Is(err, ErrAgain) {
		t.Error(err)
	}
}

// counted counts what is read.
type counted struct {
	elsewhere
	read int
}

func (c *counted) Open() (io.ReadCloser, error) {
	from, err := c.elsewhere.Open()
	return &countedReader{from, c}, err
}

type countedReader struct {
	io.ReadCloser
	c *counted
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.c.read += n
	return n, err
}

func TestMarkThatIsNotUnderstood(t *testing.T) {
	tr, _ := tables(1<<20, "t")
	f := &pipeline.Fragment{}
	f.Append(mark.Message(mark.DDLPrefix, []byte(`{"later": true}`), 1))
	if _, err := tr.Take(f); err == nil {
		t.Error("a mark of a later release was passed over")
	}
	f = &pipeline.Fragment{}
	f.Append(mark.Message("somebody's", []byte(`{"later": true}`), 1))
	take(t, tr, f)
}

func BenchmarkTakeWithoutFollowedTables(b *testing.B) {
	tr, _ := tables(1<<20, "followed", "another")
	f := inserts(10, "t", 10, 100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tr.Take(f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTake10Inserts(b *testing.B) {
	tr, tb := tables(1<<30, "t")
	f := inserts(10, "t", 10, 100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tr.Take(f); err != nil {
			b.Fatal(err)
		}
		if tr.bytes > 10<<20 {
			tr.Unfollow(tb[0])
			tr.Follow(tb[0])
		}
	}
}

func BenchmarkFold4MB(b *testing.B) {
	for _, notes := range []int{0, 100} {
		b.Run(fmt.Sprintf("%d notes", notes), func(b *testing.B) {
			tr, tb := tables(1<<30, "t")
			s := Snapshot{XMin: 10, XMax: 10}
			f := updates(10, "t", notes, 1)
			take(b, tr, f)
			c := &Chunk{ID: "c", Table: tb[0], Relation: f.Relations[0].Relation, Snapshot: s}
			for len(c.Body) < 4<<20 {
				msg := append(append(appendLength([]byte{'C'}, 4711), 'N'), tupleOf(fmt.Sprintf("%d,1,%s", c.Rows, strings.Repeat("x", 100)))...)
				c.Body = append(appendLength(c.Body, len(msg)), msg...)
				c.Rows++
			}
			b.SetBytes(int64(len(c.Body)))
			b.ReportAllocs()
			for b.Loop() {
				tr.Begin("c", tb[0])
				tr.Taken("c", s)
				into := &pipeline.Fragment{}
				if err := tr.Fold(c, into); err != nil || into.Changes != c.Rows {
					b.Fatal(into.Changes, err)
				}
			}
		})
	}
}
