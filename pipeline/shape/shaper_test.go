package shape_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/shape"
)

const secret = "0123456789abcdef0123456789abcdef"

func environment(name string) (string, bool) { return secret, name == "KEY" }

func shaper(t *testing.T, yaml string) *shape.Shaper {
	t.Helper()
	s, err := shape.Parse("shape.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	sh, err := shape.New(s, environment)
	if err != nil {
		t.Fatal(err)
	}
	return sh
}

// shaped applies rules to a fragment, which is a transaction of its own; nil: nothing is left.
func shaped(t *testing.T, sh *shape.Shaper, f *pipeline.Fragment) *pipeline.Fragment {
	t.Helper()
	b := &pipeline.Batch{Transactions: []*pipeline.Transaction{{CSN: 1, Fragments: []*pipeline.Fragment{f}}}}
	if err := sh.Apply(b); err != nil {
		t.Fatal(err)
	}
	if len(b.Transactions) == 0 {
		return nil
	}
	return b.Transactions[0].Fragments[0]
}

// lines shows the changes of a fragment.
func lines(t *testing.T, f *pipeline.Fragment) (all []string) {
	t.Helper()
	if f == nil {
		return nil
	}
	show := func(c *pipeline.Change, tuple pipeline.Tuple) string {
		var b strings.Builder
		for i, v := range tuple.Values(nil) {
			key := ""
			if c.Relation.Columns[i].Key {
				key = "!"
			}
			fmt.Fprintf(&b, " %s%s:%d=%c%s", c.Relation.Columns[i].Name, key, c.Relation.Columns[i].Type, v.Kind, v.Data)
		}
		return b.String()
	}
	err := f.Walk(func(c *pipeline.Change) error {
		switch {
		case c.Op == pipeline.Message:
			all = append(all, c.Prefix+" "+string(c.Content))
		case c.Op == pipeline.Truncate:
			all = append(all, fmt.Sprint("truncate ", c.Truncated))
		default:
			if _, err := pipeline.ParseRelation(c.Relation.Raw, nil); err != nil {
				return err
			}
			line := c.Op.String() + " " + c.Relation.String()
			if c.Old != nil {
				line += " was" + show(c, c.Old)
			}
			if c.New != nil {
				line += " is" + show(c, c.New)
			}
			all = append(all, line)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMasks(t *testing.T) {
	sh := shaper(t, `
tables:
  - table: public.a
    mask: {id: {hash: "${KEY}"}, n: {nullify: true}, note: {redact: "***"}, region: {hash: "${KEY}"}}
  - {table: public.b, mask: {note: {truncate: 2}}}
`)
	f := &pipeline.Fragment{}
	a, b := relation(1, "a", false), relation(2, "b", false)
	f.Relations = []pipeline.RelationUse{{Relation: a}, {Relation: b}}
	row := record{"id": text("7"), "region": text("eu"), "n": text("5"), "note": text("äöü")}
	empty := record{"id": text("7"), "region": text("eu"), "n": nil, "note": nil}
	f.Append(appendRow([]byte("I\x00\x00\x00\x01N"), row, 4, false))
	f.Append(appendRow([]byte("U\x00\x00\x00\x01N"), row, 4, true))
	f.Append(appendRow([]byte("I\x00\x00\x00\x01N"), empty, 4, false))
	f.Append(appendRow([]byte("D\x00\x00\x00\x01K"), row, 2, false))
	f.Append(appendRow([]byte("I\x00\x00\x00\x02N"), row, 4, false))
	f.Append(appendRow([]byte("I\x00\x00\x00\x02N"), empty, 4, false))
	id, eu := sum("7"), sum("eu")
	want := []string{
		"insert public.a is id!:25=t" + id + " region!:25=t" + eu + " n:1700=n note:25=t***",
		"update public.a is id!:25=t" + id + " region!:25=t" + eu + " n:1700=n note:25=u",
		"insert public.a is id!:25=t" + id + " region!:25=t" + eu + " n:1700=n note:25=n",
		"delete public.a was id!:25=t" + id + " region!:25=t" + eu + " n:1700=n note:25=n",
		"insert public.b is id!:23=t7 region!:25=teu n:1700=t5 note:25=täö",
		"insert public.b is id!:23=t7 region!:25=teu n:1700=n note:25=n",
	}
	if diff := cmp.Diff(want, lines(t, shaped(t, sh, f))); diff != "" {
		t.Error(diff)
	}
}

func sum(text string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(text))
	return hex.EncodeToString(h.Sum(nil))
}

// TestLarge: a body many times as large as what is read of it at once, with several versions of its tables, is rewritten in the
// same way as one in memory.
func TestLarge(t *testing.T) {
	const yaml = "tables: [{table: public.a, rows: 'region == \"eu\"', rename: x.y, exclude_columns: [n]}]"
	f := &pipeline.Fragment{}
	for n := range 3000 {
		if n%700 == 0 {
			for id, name := range []string{"a", "b"} {
				f.Relations = append(f.Relations, pipeline.RelationUse{Offset: int64(len(f.Body)), Relation: relation(uint32(id+1), name, false)})
			}
		}
		row := record{"id": text(fmt.Sprint(n)), "region": text([]string{"eu", "us"}[n%2]), "n": nil, "note": text(strings.Repeat("x", n%2000))}
		if n == 1500 {
			row["note"] = text(strings.Repeat("y", 1<<20))
		}
		f.Append(appendRow([]byte{'I', 0, 0, 0, byte(1 + n%3/2), 'N'}, row, 4, false))
	}
	want := shaped(t, shaper(t, yaml), f)
	h := &held{body: f.Body}
	large := *f
	large.Body, large.Content = nil, h
	got := shaped(t, shaper(t, yaml), &large)
	if got.Size() != want.Size() || got.Changes != want.Changes || got.Ops != want.Ops || len(got.Relations) != len(want.Relations) {
		t.Fatalf("%d bytes, %d changes, %d uses; want %d, %d, %d", got.Size(), got.Changes, len(got.Relations), want.Size(), want.Changes, len(want.Relations))
	}
	for i, use := range want.Relations {
		if got.Relations[i].Offset != use.Offset || got.Relations[i].Relation.String() != use.Relation.String() {
			t.Errorf("use %d: %d %s, want %d %s", i, got.Relations[i].Offset, got.Relations[i].Relation, use.Offset, use.Relation)
		}
	}
	if diff := cmp.Diff(lines(t, want), lines(t, got)); diff != "" {
		t.Error(diff)
	}
	got.Content.Release()
	if !h.released {
		t.Error("the content was not released")
	}
}

func TestLargeThatIsCutOff(t *testing.T) {
	f := &pipeline.Fragment{Relations: []pipeline.RelationUse{{Relation: relation(1, "a", false)}}}
	f.Append(appendRow([]byte("I\x00\x00\x00\x01N"), record{"id": text("1"), "region": text("eu"), "n": nil, "note": nil}, 4, false))
	f.Content, f.Body = &held{body: f.Body[:len(f.Body)-1]}, nil
	b := &pipeline.Batch{Transactions: []*pipeline.Transaction{{CSN: 1, Fragments: []*pipeline.Fragment{f}}}}
	if err := shaper(t, "tables: [{table: public.a, rename: x.y}]").Apply(b); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Error(err)
	}
}

// TestCopyMarks: the marks of a copy speak of tables as the stream does.
func TestCopyMarks(t *testing.T) {
	sh := shaper(t, "tables: [{table: public.a, rename: x.y}, {table: public.b, exclude: true}]")
	tables := []mark.Table{{Schema: "public", Name: "a", Keyed: true}, {Schema: "public", Name: "b"}, {Schema: "public", Name: "c"}}
	fragment := func(m mark.Copy) *pipeline.Fragment {
		f := &pipeline.Fragment{}
		f.Append(mark.Message(mark.CopyPrefix, m.Content(), 5))
		return f
	}
	for _, test := range []struct {
		mark mark.Copy
		want []string
	}{
		{mark.Copy{Kind: mark.Begin, Job: "j", Tables: tables}, []string{`cdc.copy {"mark":"begin","job":"j","tables":[{"schema":"x","table":"y","keyed":true},{"schema":"public","table":"c","keyed":false}]}`}},
		{mark.Copy{Kind: mark.End, Job: "j", Tables: tables[1:2], Last: true}, []string{`cdc.copy {"mark":"end","job":"j","last":true}`}},
		{mark.Copy{Kind: mark.High, Job: "j", Chunk: "c"}, []string{`cdc.copy {"mark":"high","job":"j","chunk":"c"}`}},
		{mark.Copy{Kind: mark.Rows, Job: "j", Chunk: "c", Tables: tables[2:]}, []string{`cdc.copy {"mark":"rows","job":"j","chunk":"c","tables":[{"schema":"public","table":"c","keyed":false}]}`}},
		{mark.Copy{Kind: mark.Rows, Job: "j", Chunk: "c", Tables: tables[1:2]}, nil},
	} {
		f := fragment(test.mark)
		if diff := cmp.Diff(test.want, lines(t, shaped(t, sh, f))); diff != "" {
			t.Error(diff)
		}
		large := *f
		large.Content, large.Body = &held{body: f.Body}, nil
		if diff := cmp.Diff(test.want, lines(t, shaped(t, sh, &large))); diff != "" {
			t.Error(diff)
		}
	}
}

// TestUntouched: what no rule is about is passed on as it is, the very same.
func TestUntouched(t *testing.T) {
	f := &pipeline.Fragment{Relations: []pipeline.RelationUse{{Relation: relation(1, "a", false)}}}
	f.Append(appendRow([]byte("I\x00\x00\x00\x01N"), record{"id": text("1"), "region": text("eu"), "n": nil, "note": nil}, 4, false))
	if got := shaped(t, shaper(t, "tables: [{table: public.x, exclude: true}]"), f); got != f {
		t.Error("the fragment was copied")
	}
}

func TestRowsThatCannotBeDecided(t *testing.T) {
	update := func(full bool, old byte) *pipeline.Fragment {
		f := &pipeline.Fragment{Relations: []pipeline.RelationUse{{Relation: relation(1, "a", full)}}}
		us, eu := record{"id": text("1"), "region": text("us"), "n": nil, "note": nil}, record{"id": text("1"), "region": text("eu"), "n": nil, "note": text("")}
		msg := []byte("U\x00\x00\x00\x01")
		if old != 0 {
			msg = appendRow(append(msg, old), us, 2, false)
		}
		f.Append(appendRow(append(msg, 'N'), eu, 4, true))
		return f
	}
	// A partition with a key, below a table whose identity is FULL.
	otherKey := &pipeline.Fragment{Relations: []pipeline.RelationUse{{Relation: relation(1, "a", true)}}}
	otherKey.Append(appendRow([]byte("D\x00\x00\x00\x01K"), record{"id": text("1")}, 1, false))
	for _, test := range []struct {
		f    *pipeline.Fragment
		want string
	}{
		{update(false, pipeline.OldKey), "an update lets a row in without the value of column note"},
		{update(true, 0), "an update does not say what the row was before"},
		{otherKey, "delete: column region of the old row, which rows looks at, was not sent"},
	} {
		b := &pipeline.Batch{Transactions: []*pipeline.Transaction{{CSN: 1, Fragments: []*pipeline.Fragment{test.f}}}}
		err := shaper(t, "tables: [{table: public.a, rows: 'region == \"eu\"'}]").Apply(b)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}

// TestARuleThatDoesNotFitAnyMore: a table that changed under a rule stops the stream; nothing is let through as it is.
func TestARuleThatDoesNotFitAnyMore(t *testing.T) {
	f := &pipeline.Fragment{Relations: []pipeline.RelationUse{{Relation: relation(1, "a", false)}}}
	f.Append(appendRow([]byte("I\x00\x00\x00\x01N"), record{"id": text("1"), "region": text("eu"), "n": nil, "note": nil}, 4, false))
	b := &pipeline.Batch{Transactions: []*pipeline.Transaction{{CSN: 1, Fragments: []*pipeline.Fragment{f}}}}
	err := shaper(t, "tables: [{table: public.a, mask: {ssn: {nullify: true}}}]").Apply(b)
	if err == nil || !strings.Contains(err.Error(), `the rules do not fit the table any more: rule public.a (line 1): table public.a: mask: there is no column "ssn"`) {
		t.Error(err)
	}
}

func TestKeysOfHashes(t *testing.T) {
	s, err := shape.Parse("shape.yaml", []byte(`tables: [{table: public.a, mask: {id: {hash: "${KEY}"}, n: {hash: "${OTHER}"}}}]`))
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{"": "the environment variable OTHER has 0 bytes", "short-secret": "has 12 bytes, and less than 16 can be guessed"} {
		_, err = shape.New(s, func(name string) (string, bool) {
			if name == "KEY" {
				return secret, true
			}
			return value, true
		})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "short-secret") {
			t.Errorf("%q: %v", value, err)
		}
	}
	if _, err := shape.New(s, environment); err == nil || !strings.Contains(err.Error(), "${OTHER}, which is not set. Try: set the environment variable OTHER") {
		t.Error(err)
	}
}

// A table that is renamed does not leave its rule, and two tables do not become one.
func TestNames(t *testing.T) {
	const rules = `
tables:
  - {table: public.a, mask: {note: {redact: "***"}}, rename: x.same}
  - {table: public.a2, mask: {note: {redact: "***"}}}
  - {table: public.c*, exclude_columns: [note]}
  - {table: other.b, rename: x.same}
`
	insert := func(shard pipeline.ShardID, id uint32, schema, name string) *pipeline.Batch {
		f := &pipeline.Fragment{Shard: shard}
		r := *relation(id, name, false)
		r.Namespace = schema
		f.Relations = []pipeline.RelationUse{{Relation: &r}}
		f.Append(appendRow([]byte{'I', 0, 0, 0, byte(id), 'N'}, record{"id": text("7"), "region": text("eu"), "n": text("5"), "note": text("n")}, 4, false))
		return &pipeline.Batch{Transactions: []*pipeline.Transaction{{CSN: 1, Fragments: []*pipeline.Fragment{f}}}}
	}
	type table struct {
		shard        pipeline.ShardID
		id           uint32
		schema, name string
	}
	for _, c := range []struct {
		tables []table // one after the other; the last one is judged
		want   string
	}{
		{[]table{{0, 1, "public", "a"}}, ""},
		{[]table{{0, 1, "public", "z"}}, "table public.z was public.a when its rule was found"},
		{[]table{{0, 1, "public", "a2"}}, "table public.a2 was public.a when its rule was found"},
		{[]table{{1, 1, "public", "z"}}, ""},  // another shard's
		{[]table{{0, 3, "public", "c2"}}, ""}, // the same rule
		{[]table{{0, 3, "public", "c2"}, {0, 3, "away", "c2"}}, "table away.c2 was public.c2 when"},
		{[]table{{0, 1, "public", "a"}, {0, 4, "other", "b"}}, "tables public.a and other.b are both x.same in the stream"},
		{[]table{{0, 9, "public", "free"}, {0, 9, "public", "c9"}}, ""}, // from no rule to one
		{[]table{{0, 9, "public", "c9"}, {0, 9, "public", "free"}}, "table public.free was public.c9 when"},
	} {
		sh := shaper(t, rules)
		sh.Remember(0, []shape.Ruled{{ID: 1, Schema: "public", Table: "a"}, {ID: 3, Schema: "public", Table: "c1"}})
		for i, at := range c.tables {
			err := sh.Apply(insert(at.shard, at.id, at.schema, at.name))
			want := ""
			if i == len(c.tables)-1 {
				want = c.want
			}
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %v, want %s", c.tables[:i+1], err, want)
			}
		}
	}
}
