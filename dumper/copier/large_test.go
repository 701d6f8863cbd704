package copier

import (
	"fmt"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/garbage/garbagetest"
)

// discard is a File that keeps only how much it was given.
type discard struct {
	pipeline.Content
	n                int64
	sealed, released bool
}

func (d *discard) Write(p []byte) (int, error) { d.n += int64(len(p)); return len(p), nil }
func (d *discard) Seal() error                 { d.sealed = true; return nil }
func (d *discard) Size() int64                 { return d.n }
func (d *discard) Release()                    { d.released = true }

// A row that is too large for memory is in it where the connection received it, and nowhere else.
func TestLargeRow(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (v text, id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t", "ALTER TABLE t ALTER v SET STORAGE EXTERNAL",
		fmt.Sprintf("INSERT INTO t VALUES ('a', 1), (repeat('x', %d), 2), ('b', 3)", garbagetest.Row))
	table := s.table("t")
	var out *discard
	file := func() (File, error) { out = new(discard); return out, nil }
	for what, read := range map[string]func() (*Result, error){
		"chunk": func() (*Result, error) {
			return s.Chunk(t.Context(), Request{ID: "c", Table: table, Rows: 2, BytesMax: 1 << 30, File: file})
		},
		"keys":  func() (*Result, error) { return s.Keys(t.Context(), "k", table, [][]string{{"2"}, {"1"}}, file, nil) },
		"whole": func() (*Result, error) { return s.Whole(t.Context(), "w", table, file, nil) },
	} {
		garbagetest.AtMost(t, garbagetest.Row+4<<20, what, func() {
			res, err := read()
			if err != nil {
				t.Fatal(what, err)
			}
			if res.Body != nil || res.Content != pipeline.Content(out) || !out.sealed || out.released || out.n < garbagetest.Row {
				t.Errorf("%s: %+v, %d bytes", what, res, out.n)
			}
			if what == "chunk" && (res.Rows != 2 || len(res.Last) != 1 || res.Last[0] != "2" || res.End) {
				t.Errorf("%s: %d rows to %v, end %v", what, res.Rows, res.Last, res.End)
			}
		})
	}
	res, err := s.Chunk(t.Context(), Request{ID: "c", Table: table, Rows: 10, BytesMax: 1 << 30, File: file})
	if err != nil || res.Rows != 3 || res.Last[0] != "3" || !res.End {
		t.Errorf("%+v, %v", res, err)
	}
	if res, err = s.Chunk(t.Context(), Request{ID: "c", Table: table, Rows: 10, BytesMax: 1 << 20, File: file}); err != nil || res.Rows != 2 || res.Last[0] != "2" || res.End {
		t.Errorf("%+v, %v", res, err)
	}
}

// What goes to a file, in whatever pieces, is what would be in memory.
func TestRowsInFile(t *testing.T) {
	r := &pipeline.Relation{ID: 7, Columns: make([]pipeline.Column, 3)}
	for _, keep := range []int{1, 20, 50, 200, 1000} {
		out := new(memory)
		file := newRows(&Table{Relation: r}, func() (File, error) { return out, nil })
		inMemory := newRows(&Table{Relation: r}, nil)
		file.keep = keep
		key := []keyColumn{{at: 1}}
		file.key, inMemory.key = key, key
		for n := range 100 {
			values := [][]byte{nil, fmt.Append(nil, n), make([]byte, n*7%101)}
			if _, err := inMemory.add(values); err != nil {
				t.Fatal(err)
			}
			if _, err := file.add(values); err != nil {
				t.Fatal(err)
			}
			got, err := file.keyOfLast()
			if err != nil || got[0] != fmt.Sprint(n) {
				t.Fatalf("keep %d: the last key is %v after row %d, %v", keep, got, n, err)
			}
			if file.size != inMemory.size || file.count != inMemory.count {
				t.Fatalf("keep %d: %d rows of %d bytes, want %d of %d", keep, file.count, file.size, inMemory.count, inMemory.size)
			}
		}
		if err := file.flush(); err != nil {
			t.Fatal(err)
		}
		if out.String() != string(inMemory.body) || inMemory.size != int64(len(inMemory.body)) {
			t.Errorf("keep %d: the file differs", keep)
		}
	}
}
