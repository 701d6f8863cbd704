package shape_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"shardcdc/pipeline"
	"shardcdc/pipeline/shape"
	"shardcdc/pipeline/wire"
)

// The oracle keeps the tables of a source as maps, and those of a target that does what the stream says, strictly. After every
// transaction the target has to be the image of the source. It knows nothing of messages that are rewritten.

const absent = "\x00absent"

// record is a row: values by column. A value is a text, or nil for NULL.
type record map[string]*string

func (r record) String() string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(r)) {
		v := "NULL"
		if r[k] != nil {
			v = *r[k]
		}
		fmt.Fprintf(&b, "%s=%s ", k, v)
	}
	return b.String()
}

// world is a source with tables, and the target that follows it.
type world struct {
	t      *rapid.T
	full   bool
	source [2]map[string]record // by key
	rels   [2]*pipeline.Relation
	target map[string]map[string]record // by the table's name there
	last   pipeline.CSN
	shaper *shape.Shaper
	read   wire.Decoder
	seen   pipeline.CSN // by the reader
}

var sourceColumns = []string{"id", "region", "n", "note"}

func relation(id uint32, name string, full bool) *pipeline.Relation {
	identity := byte('i')
	if full {
		identity = 'f'
	}
	raw := binary.BigEndian.AppendUint32([]byte{'R'}, id)
	raw = append(raw, "public\x00"+name+"\x00"...)
	raw = append(raw, identity, 0, 4)
	for i, c := range sourceColumns {
		flags := byte(0)
		if full || i < 2 {
			flags = 1
		}
		raw = append(append(append(raw, flags), c...), 0)
		raw = binary.BigEndian.AppendUint32(raw, []uint32{23, 25, 1700, 25}[i])
		raw = append(raw, 255, 255, 255, 255)
	}
	r, err := pipeline.ParseRelation(raw, nil)
	if err != nil {
		panic(err)
	}
	return r
}

func appendRow(b []byte, r record, only int, unchanged bool) []byte {
	b = append(b, 0, 4)
	for i, c := range sourceColumns {
		switch {
		case i >= only || r[c] == nil:
			b = append(b, pipeline.Null)
		case unchanged && c == "note":
			b = append(b, pipeline.Unchanged)
		default:
			b = append(b, pipeline.Text)
			b = binary.BigEndian.AppendUint32(b, uint32(len(*r[c])))
			b = append(b, *r[c]...)
		}
	}
	return b
}

func text(s string) *string { return &s }

func (w *world) draw(label string, of ...string) string {
	return rapid.SampledFrom(of).Draw(w.t, label)
}

func (w *world) row() record {
	r := record{"id": text(w.draw("id", "1", "2", "3")), "region": text(w.draw("region", "eu", "us")), "n": nil, "note": nil}
	if n := w.draw("n", "NULL", "-1", "0.5", "12345678901234567890.5"); n != "NULL" {
		r["n"] = &n
	}
	if n := w.draw("note", "NULL", "", "some secret", "äöüß"); n != "NULL" {
		r["note"] = &n
	}
	return r
}

func keyOf(r record) string { return *r["id"] + "/" + *r["region"] }

// change does something to a table of the source, and says how pgoutput tells it.
func (w *world) change(f *pipeline.Fragment) {
	i := rapid.IntRange(0, 1).Draw(w.t, "table")
	table, id := w.source[i], w.rels[i].ID
	head := func(op pipeline.Op) []byte { return binary.BigEndian.AppendUint32([]byte{byte(op)}, id) }
	described := slices.ContainsFunc(f.Relations, func(u pipeline.RelationUse) bool { return u.Relation.ID == id })
	if !described || rapid.IntRange(0, 9).Draw(w.t, "again") == 0 {
		w.rels[i] = relation(id, w.rels[i].Name, w.full) // another version, of the same form
		f.Relations = append(f.Relations, pipeline.RelationUse{Offset: int64(len(f.Body)), Relation: w.rels[i]})
	}
	now := w.row()
	is, there := keyOf(now), false
	_, there = table[is]
	switch what := w.draw("what", "insert", "update", "delete", "truncate", "message"); {
	case what == "message":
		msg := append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 9}, "app\x00"...)
		f.Append(append(binary.BigEndian.AppendUint32(msg, 2), "hi"...))
	case what == "truncate" && rapid.IntRange(0, 3).Draw(w.t, "really") == 0:
		clear(table)
		f.Append(append([]byte{'T', 0, 0, 0, 1, 0}, head('T')[1:]...))
	case !there && what == "insert":
		table[is] = now
		f.Append(appendRow(append(head(pipeline.Insert), 'N'), now, 4, false))
	case what == "update" && len(table) > 0:
		w.update(f, table, head(pipeline.Update), now)
	case there:
		kind, only := byte(pipeline.OldKey), 2
		if w.full {
			kind, only = pipeline.OldFull, 4
		}
		f.Append(appendRow(append(head(pipeline.Delete), kind), table[is], only, false))
		delete(table, is)
	}
}

func (w *world) update(f *pipeline.Fragment, table map[string]record, msg []byte, now record) {
	was := rapid.SampledFrom(slices.Sorted(maps.Keys(table))).Draw(w.t, "which")
	old := table[was]
	if _, taken := table[keyOf(now)]; taken && keyOf(now) != was {
		return
	}
	// A value that is large, and not touched. The identity has to tell it where the row may come in.
	unchanged := old["note"] != nil && rapid.Bool().Draw(w.t, "unchanged") && (w.full || keyOf(now) == was)
	if unchanged {
		now["note"] = old["note"]
	}
	switch {
	case w.full:
		msg = appendRow(append(msg, pipeline.OldFull), old, 4, false)
	case keyOf(now) != was:
		msg = appendRow(append(msg, pipeline.OldKey), old, 2, false)
	}
	delete(table, was)
	table[keyOf(now)] = now
	f.Append(appendRow(append(msg, 'N'), now, 4, unchanged))
}

// held is a body that is not in memory, read in small pieces.
type held struct {
	body     []byte
	released bool
}

func (h *held) Size() int64 { return int64(len(h.body)) }
func (h *held) Release()    { h.released = true }
func (h *held) Open() (io.ReadCloser, error) {
	return io.NopCloser(iotest.HalfReader(bytes.NewReader(h.body))), nil
}

// rules under test, with what they mean to the oracle.
type rules struct {
	yaml  string
	names [2]string // of the tables on the target; "": excluded
	pass  func(record) bool
	image func(record) record
	key   []string // on the target
}

func same(r record) record { return r }

func columnsOnly(columns ...string) func(record) record {
	return func(r record) record {
		out := record{}
		for _, c := range columns {
			out[c] = r[c]
		}
		return out
	}
}

func region(r record) bool { return *r["region"] == "eu" }

func variants(full bool) []rules {
	key := []string{"id", "region"}
	all := []rules{
		{"tables: [{table: public.a, rows: 'region == \"eu\"'}]", [2]string{"public.a", "public.b"}, region, same, key},
		{"tables: [{table: public.a, rename: x.y, rename_columns: {note: remark}}, {table: public.b, exclude: true}]", [2]string{"x.y", ""}, nil, func(r record) record {
			return record{"id": r["id"], "region": r["region"], "n": r["n"], "remark": r["note"]}
		}, key},
		{"tables: [{table: 'public.a*', columns: [id, region, n], rename: 'z.*'}]", [2]string{"z.a", "public.b"}, nil, columnsOnly("id", "region", "n"), key},
		{"tables: [{table: public.a, mask: {note: {truncate: 3}, n: {nullify: true}}}]", [2]string{"public.a", "public.b"}, nil, func(r record) record {
			out := maps.Clone(r)
			out["n"] = nil
			if r["note"] != nil {
				out["note"] = text(string([]rune(*r["note"])[:min(3, len([]rune(*r["note"])))]))
			}
			return out
		}, key},
	}
	if full {
		all = append(all,
			rules{
				"tables: [{table: public.a, rows: 'n > 0 and note != nil', mask: {note: {redact: xxx}}}]",
				[2]string{"public.a", "public.b"},
				func(r record) bool { return r["n"] != nil && *r["n"] != "-1" && r["note"] != nil },
				func(r record) record { r = maps.Clone(r); r["note"] = text("xxx"); return r }, key,
			},
			rules{
				"tables: [{table: public.a, key: [id, region], exclude_columns: [n], rows: 'n < 1'}]",
				[2]string{"public.a", "public.b"},
				func(r record) bool { return r["n"] != nil && (*r["n"] == "-1" || *r["n"] == "0.5") }, columnsOnly("id", "region", "note"), key,
			})
	}
	return all
}

// apply does what a change of the stream says, as strictly as a target.
func (w *world) apply(c *pipeline.Change) error {
	if c.Op == pipeline.Message {
		return nil
	}
	for _, r := range c.Truncated {
		clear(w.target[r.String()])
	}
	if c.Op == pipeline.Truncate {
		return nil
	}
	table := w.target[c.Relation.String()]
	if table == nil {
		return fmt.Errorf("%s on %s, which is not in the stream", c.Op, c.Relation)
	}
	read := func(t pipeline.Tuple) record {
		r := record{}
		for i, v := range t.Values(nil) {
			switch v.Kind {
			case pipeline.Null:
				r[c.Relation.Columns[i].Name] = nil
			case pipeline.Unchanged:
				r[c.Relation.Columns[i].Name] = text(absent)
			default:
				r[c.Relation.Columns[i].Name] = text(string(v.Data))
			}
		}
		return r
	}
	var was, is record
	if c.New != nil {
		is = read(c.New)
	}
	if was = is; c.Old != nil {
		was = read(c.Old)
	}
	row, there := table[keyOf(was)]
	if there == (c.Op == pipeline.Insert) {
		return fmt.Errorf("%s of row %s: there %v", c.Op, was, there)
	}
	if c.Op != pipeline.Insert {
		delete(table, keyOf(was))
	}
	if c.Op == pipeline.Delete {
		return nil
	}
	for name, v := range is {
		if v != nil && *v == absent {
			if c.Op == pipeline.Insert {
				return fmt.Errorf("an insert without %s", name)
			}
			is[name] = row[name]
		}
	}
	table[keyOf(is)] = is
	return nil
}

func (w *world) want(r rules) map[string]map[string]record {
	want := map[string]map[string]record{}
	for i, name := range r.names {
		if name == "" {
			continue
		}
		want[name] = map[string]record{}
		for key, row := range w.source[i] {
			if i == 0 {
				if r.pass != nil && !r.pass(row) {
					continue
				}
				row = r.image(row)
			}
			want[name][key] = row
		}
	}
	return want
}

// publish shapes a batch, writes it as a unit, reads it, and does what it says.
func (w *world) publish(fragments []*pipeline.Fragment) {
	b := &pipeline.Batch{Previous: w.last}
	var contents []*held
	for _, f := range fragments {
		w.last += pipeline.CSN(rapid.IntRange(1, 5).Draw(w.t, "step"))
		if f.Changes > 0 {
			b.Transactions = append(b.Transactions, &pipeline.Transaction{CSN: w.last, Fragments: []*pipeline.Fragment{f}})
		}
	}
	if len(b.Transactions) == 1 && rapid.Bool().Draw(w.t, "large") {
		f := b.Transactions[0].Fragments[0]
		h := &held{body: f.Body}
		contents = append(contents, h)
		f.Content, f.Body = h, nil
	}
	b.Checkpoint = pipeline.Checkpoint{Last: b.Last(), Watermark: b.Last()}
	if err := w.shaper.Apply(b); err != nil {
		w.t.Fatal(err)
	}
	if b.Checkpoint.Last != b.Last() || b.Previous != w.seen || b.Checkpoint.Last > b.Checkpoint.Watermark {
		w.t.Fatalf("the batch goes from %s to %s, its checkpoint says %s, the reader is at %s", b.Previous, b.Last(), b.Checkpoint.Last, w.seen)
	}
	for _, tx := range b.Transactions {
		for _, f := range tx.Fragments {
			w.resident(f)
		}
	}
	for _, tx := range b.Transactions {
		tx.Release()
	}
	for _, h := range contents {
		if !h.released {
			w.t.Fatal("a content was not released")
		}
	}
	if len(b.Transactions) == 0 {
		return
	}
	w.follow(b)
}

// resident takes a body into memory, as exactly as it was announced.
func (w *world) resident(f *pipeline.Fragment) {
	if f.Content == nil {
		return
	}
	r, err := f.Content.Open()
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := io.ReadAll(iotest.OneByteReader(r))
	if err != nil || int64(len(body)) != f.Content.Size() {
		w.t.Fatalf("read %d bytes of %d: %v", len(body), f.Content.Size(), err)
	}
	f.Content.Release()
	f.Body, f.Content = body, nil
}

func (w *world) follow(b *pipeline.Batch) {
	frame, err := new(wire.Encoder).AppendUnit(nil, b)
	if err != nil {
		w.t.Fatal(err)
	}
	u, err := w.read.DecodeUnit(frame)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := u.Follows(w.seen); err != nil {
		w.t.Fatal(err)
	}
	w.seen = u.Last
	for _, tx := range u.Transactions {
		for _, f := range tx.Fragments {
			if err := f.Walk(w.apply); err != nil {
				w.t.Fatalf("csn %s: %v", tx.CSN, err)
			}
		}
	}
}

func TestTheTargetIsTheImageOfTheSource(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		full := rapid.Bool().Draw(t, "full")
		r := rapid.SampledFrom(variants(full)).Draw(t, "rules")
		s, err := shape.Parse("shape.yaml", []byte(r.yaml))
		if err != nil {
			t.Fatal(err)
		}
		sh, err := shape.New(s, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, full: full, shaper: sh, target: map[string]map[string]record{}}
		for i, name := range []string{"a", "b"} {
			w.source[i], w.rels[i] = map[string]record{}, relation(uint32(i+1), name, full)
			if r.names[i] != "" {
				w.target[r.names[i]] = map[string]record{}
			}
		}
		for range rapid.IntRange(1, 8).Draw(t, "batches") {
			var fragments []*pipeline.Fragment
			for range rapid.IntRange(1, 3).Draw(t, "transactions") {
				f := &pipeline.Fragment{XID: 5, End: 10}
				for range rapid.IntRange(0, 6).Draw(t, "changes") {
					w.change(f)
				}
				fragments = append(fragments, f)
			}
			w.publish(fragments)
			if diff := cmp.Diff(w.want(r), w.target); diff != "" {
				t.Fatalf("%s\nthe target is not what it should be (-want +got):\n%s", r.yaml, diff)
			}
		}
	})
}
