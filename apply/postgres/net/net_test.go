package net

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"shardcdc/pipeline"
)

// tuple makes a row; "-" is NULL, "~" was not sent.
func tuple(values ...string) pipeline.Tuple {
	t := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	for _, v := range values {
		switch v {
		case "-":
			t = append(t, pipeline.Null)
		case "~":
			t = append(t, pipeline.Unchanged)
		default:
			t = append(t, pipeline.Text)
			t = binary.BigEndian.AppendUint32(t, uint32(len(v)))
			t = append(t, v...)
		}
	}
	return t
}

func texts(t pipeline.Tuple) (list []string) {
	for _, v := range t.Values(nil) {
		switch v.Kind {
		case pipeline.Null:
			list = append(list, "-")
		case pipeline.Unchanged:
			list = append(list, "~")
		default:
			list = append(list, string(v.Data))
		}
	}
	return list
}

// state is a table: rows of a key in two columns, a unique value (or NULL), and a value that updates may leave out.
type state map[[2]string][2]string

// do applies one change as PostgreSQL would, and says whether it is possible. It is deliberately simple.
func (s state) do(c *pipeline.Change) error {
	key := func(t pipeline.Tuple) [2]string { v := texts(t); return [2]string{v[0], v[3]} }
	free := func(except [2]string, u string) error {
		for k, v := range s {
			if k != except && u != "-" && v[0] == u {
				return fmt.Errorf("unique value %s is that of %v", u, k)
			}
		}
		return nil
	}
	switch c.Op {
	case pipeline.Insert:
		v, k := texts(c.New), key(c.New)
		if _, there := s[k]; there {
			return fmt.Errorf("insert: %v is there", k)
		}
		if slices.Contains(v, "~") {
			return fmt.Errorf("insert: %v lacks a value", k)
		}
		s[k] = [2]string{v[1], v[2]}
		return free(k, v[1])
	case pipeline.Update:
		v, k := texts(c.New), key(c.New)
		if c.Old != nil {
			k = key(c.Old)
		}
		was, there := s[k]
		if !there {
			return fmt.Errorf("update: %v is not there", k)
		}
		if v[2] == "~" {
			v[2] = was[1]
		}
		delete(s, k)
		s[key(c.New)] = [2]string{v[1], v[2]}
		return free(key(c.New), v[1])
	default:
		k := key(c.Old)
		if _, there := s[k]; !there {
			return fmt.Errorf("delete: %v is not there", k)
		}
		delete(s, k)
		return nil
	}
}

// write does what the package says: deletes, updates, inserts. Updates may swap unique values among themselves.
func (s state) write(rows []Row) error {
	for i := range rows {
		if r := &rows[i]; r.Deleted {
			if err := s.do(&pipeline.Change{Op: pipeline.Delete, Old: r.Old}); err != nil {
				return err
			}
		}
	}
	var free []error
	for i := range rows {
		r := &rows[i]
		if !r.Updates() {
			continue
		}
		there := len(s)
		err := s.do(&pipeline.Change{Op: pipeline.Update, Old: r.Old, New: r.New})
		if len(s) != there || err != nil && s[[2]string{texts(r.New)[0], texts(r.New)[3]}][0] != texts(r.New)[1] {
			return err
		}
		free = append(free, err)
	}
	if err := s.unique(); err != nil {
		return fmt.Errorf("behind the updates (%v): %w", free, err)
	}
	for i := range rows {
		if r := &rows[i]; r.Inserts() {
			if err := s.do(&pipeline.Change{Op: pipeline.Insert, New: r.New}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s state) unique() error {
	seen := map[string][2]string{}
	for k, v := range s {
		if other, there := seen[v[0]]; there && v[0] != "-" {
			return fmt.Errorf("unique value %s is that of %v and %v", v[0], k, other)
		}
		seen[v[0]] = k
	}
	return nil
}

// TestRandom: the net effect of random changes leaves the table as the changes themselves do.
func TestRandom(t *testing.T) {
	var keep Rows
	keep.Keep = true
	rapid.Check(t, func(t *rapid.T) {
		rows := &keep
		if rapid.Bool().Draw(t, "views") {
			rows = new(Rows)
		}
		for range rapid.IntRange(1, 3).Draw(t, "times") {
			once(t, rows)
		}
	})
}

func once(t *rapid.T, rows *Rows) {
	one := func(name, of string) string { return string(rapid.SampledFrom([]byte(of)).Draw(t, name)) }
	key := func() (a, b string) { // two of them are the same one after the other
		return rapid.SampledFrom([]string{"x", "xy"}).Draw(t, "a"), rapid.SampledFrom([]string{"1", "y1", "2"}).Draw(t, "b")
	}
	source := state{}
	for range rapid.IntRange(0, 5).Draw(t, "rows") {
		a, b := key()
		if next := maps.Clone(source); next.do(&pipeline.Change{Op: pipeline.Insert, New: tuple(a, one("u", "-pqrst"), one("v", "0123"), b)}) == nil {
			source = next
		}
	}
	target := maps.Clone(source)
	rows.Begin([]int{0, 3})
	known := map[[2]string]bool{}
	for range rapid.IntRange(0, 30).Draw(t, "changes") {
		a, b := key()
		c := &pipeline.Change{Op: rapid.SampledFrom([]pipeline.Op{pipeline.Insert, pipeline.Update, pipeline.Delete}).Draw(t, "op")}
		if c.Op != pipeline.Delete {
			c.New = tuple(a, one("u", "-pqrst"), one("v", "0123~"), b)
		}
		switch kind := rapid.SampledFrom([]byte{pipeline.OldNone, pipeline.OldKey, pipeline.OldFull}).Draw(t, "old"); {
		case c.Op == pipeline.Insert, c.Op == pipeline.Update && kind == pipeline.OldNone:
		case kind == pipeline.OldFull && source[[2]string{a, b}] != [2]string{}:
			c.OldKind, c.Old = kind, tuple(a, source[[2]string{a, b}][0], source[[2]string{a, b}][1], b)
		default:
			c.OldKind, c.Old = pipeline.OldKey, tuple(a, "-", "-", b)
		}
		next := maps.Clone(source)
		impossible := next.do(c)
		if _, there := source[[2]string{a, b}]; impossible != nil && (!known[[2]string{a, b}] || there != (c.Op == pipeline.Insert)) {
			continue // Rows cannot know it
		}
		known[[2]string{a, b}] = true
		before := fmt.Sprint(rows.rows, rows.Size())
		given := *c
		given.Old, given.New = slices.Clone(c.Old), slices.Clone(c.New)
		switch took := rows.Add(0, 1, &given); {
		case impossible == nil && !took:
			t.Fatalf("%s %v %v was refused", c.Op, texts(c.Old), texts(c.New))
		case impossible == nil:
			source = next
		case took:
			t.Fatalf("%s %v %v was taken: %v", c.Op, texts(c.Old), texts(c.New), impossible)
		case before != fmt.Sprint(rows.rows, rows.Size()):
			t.Fatalf("%s %v %v was refused and did something", c.Op, texts(c.Old), texts(c.New))
		}
		if rows.Keep { // what was given does not last
			clear(given.Old)
			clear(given.New)
		}
	}
	if err := target.write(rows.All()); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(target, source) {
		t.Fatalf("got %v, want %v", target, source)
	}
}

// TestTransitions is the table of the package doc.
func TestTransitions(t *testing.T) {
	row := func(v string) pipeline.Tuple { return tuple("k", v) }
	do := map[byte]func(v string) *pipeline.Change{
		'I': func(v string) *pipeline.Change { return &pipeline.Change{Op: pipeline.Insert, New: row(v)} },
		'U': func(v string) *pipeline.Change { return &pipeline.Change{Op: pipeline.Update, New: row(v)} },
		'u': func(string) *pipeline.Change { return &pipeline.Change{Op: pipeline.Update, New: row("~")} },
		'D': func(string) *pipeline.Change {
			return &pipeline.Change{Op: pipeline.Delete, OldKind: pipeline.OldKey, Old: tuple("k", "-")}
		},
	}
	for _, c := range []struct{ changes, want string }{
		{"I", "new 0"},
		{"U", "update 0"},
		{"D", "delete"},
		{"II", "refused"},
		{"IU", "new 1"},
		{"Iu", "new 0"},
		{"ID", "nothing"},
		{"UI", "refused"},
		{"UU", "update 1"},
		{"Uu", "update 0"},
		{"uU", "update 1"},
		{"uu", "update ~"},
		{"UD", "delete"},
		{"DI", "delete, new 1"},
		{"DU", "refused"},
		{"DD", "refused"},
		{"DII", "refused"},
		{"DIU", "delete, new 2"},
		{"DIu", "delete, new 1"},
		{"DID", "delete"},
		{"DIDI", "delete, new 3"},
		{"IDI", "new 2"},
		{"IDU", "refused"},
		{"IDD", "refused"},
	} {
		var rows Rows
		rows.Begin([]int{0})
		got := ""
		for i, op := range []byte(c.changes) {
			if !rows.Add(0, 1, do[op](fmt.Sprint(i))) {
				got = "refused"
			}
		}
		if got == "" {
			got = effect(&rows.All()[0])
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.changes, got, c.want)
		}
	}
}

func effect(r *Row) string {
	switch {
	case r.Deleted && r.Inserts():
		return "delete, new " + texts(r.New)[1]
	case r.Deleted:
		return "delete"
	case r.Updates():
		return "update " + texts(r.New)[1]
	case r.Inserts():
		return "new " + texts(r.New)[1]
	}
	return "nothing"
}

// TestRefused: what cannot be told apart by its key, or is not text.
func TestRefused(t *testing.T) {
	binary := append([]byte{0, 2, 't', 0, 0, 0, 1, 'k', 'b', 0, 0, 0, 1}, 'x')
	for name, c := range map[string]*pipeline.Change{
		"update of the key": {Op: pipeline.Update, OldKind: pipeline.OldKey, Old: tuple("k", "-"), New: tuple("l", "v")},
		"no key":            {Op: pipeline.Insert, New: tuple("-", "v")},
		"no key sent":       {Op: pipeline.Update, New: tuple("~", "v")},
		"binary":            {Op: pipeline.Insert, New: binary},
		"insert lacks":      {Op: pipeline.Insert, New: tuple("k", "~")},
		"read":              {Op: pipeline.Read, New: tuple("k", "v")},
	} {
		var rows Rows
		rows.Begin([]int{0})
		if rows.Add(0, 1, c) || rows.Len() != 0 || rows.Size() != 0 {
			t.Errorf("%s was taken", name)
		}
	}
	var rows Rows
	rows.Begin(nil)
	insert := &pipeline.Change{Op: pipeline.Insert, New: tuple("k", "v")}
	if !rows.Add(0, 1, insert) || !rows.Add(0, 2, insert) || rows.Len() != 2 {
		t.Error("without a key every insert is a row")
	}
	if rows.Add(0, 1, &pipeline.Change{Op: pipeline.Delete, OldKind: pipeline.OldFull, Old: tuple("k", "v")}) {
		t.Error("without a key a delete was taken")
	}
}

// TestShards: only a row that another shard deleted is followed by one of this shard.
func TestShards(t *testing.T) {
	insert := &pipeline.Change{Op: pipeline.Insert, New: tuple("k", "v")}
	update := &pipeline.Change{Op: pipeline.Update, New: tuple("k", "w")}
	remove := &pipeline.Change{Op: pipeline.Delete, OldKind: pipeline.OldKey, Old: tuple("k", "-")}
	for _, before := range []*pipeline.Change{insert, update, remove} {
		for _, c := range []*pipeline.Change{insert, update, remove} {
			var rows Rows
			rows.Begin([]int{0})
			rows.Add(1, 1, before)
			if want := before == remove && c == insert; rows.Add(2, 2, c) != want {
				t.Errorf("%s, %s by another shard: taken is %v", before.Op, c.Op, !want)
			}
		}
	}
}

// A key that was not sent anew is the old one.
func TestUnchangedKey(t *testing.T) {
	var rows Rows
	rows.Begin([]int{0})
	if !rows.Add(0, 1, &pipeline.Change{Op: pipeline.Update, OldKind: pipeline.OldKey, Old: tuple("k", "-"), New: tuple("~", "v")}) ||
		!rows.Add(0, 2, &pipeline.Change{Op: pipeline.Update, New: tuple("k", "w")}) || rows.Len() != 1 || rows.All()[0].CSN != 2 {
		t.Fatalf("%+v", rows.All())
	}
}

// TestHeld: what is kept besides what was given is known, so that it can be limited: a large value that updates leave as it
// was is copied with each of them.
func TestHeld(t *testing.T) {
	var rows Rows
	rows.Begin([]int{0})
	big := strings.Repeat("x", 50_000)
	rows.Add(0, 1, &pipeline.Change{Op: pipeline.Update, New: tuple("k", "0", big)})
	for i := range 100 {
		rows.Add(0, 1, &pipeline.Change{Op: pipeline.Update, New: tuple("k", fmt.Sprint(i), "~")})
	}
	if rows.Size() < 100*len(big) {
		t.Errorf("%d bytes are known of, %d are held", rows.Size(), 100*len(big))
	}
}

func BenchmarkAdd(b *testing.B) {
	const n = 10_000
	changes := make([]pipeline.Change, n)
	for i := range changes {
		changes[i] = pipeline.Change{Op: pipeline.Update, New: tuple(fmt.Sprint(i*7919%(n/2)), "1", "a value of some length", "-")}
	}
	for _, keep := range []bool{false, true} {
		b.Run(fmt.Sprintf("keep=%v", keep), func(b *testing.B) {
			rows := Rows{Keep: keep}
			b.ReportAllocs()
			for b.Loop() {
				rows.Begin([]int{0})
				for i := range changes {
					rows.Add(0, 1, &changes[i])
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/change")
		})
	}
}
