package fold

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// script plays the files of testdata:
//
//	follow [id,…]                    the table public.t, by this key; no key: without one
//	relation [identity=d|f|i|n] …    what its columns are from now on: name, name:type, name* (in the identity)
//	take xid=N [spilled]             a fragment: insert V | update [K V|O V ->] V | delete K V|O V | truncate | ddl TAG OBJECT…
//	begin C / taken C SNAPSHOT / drop C
//	fold C [SNAPSHOT] [content]      the chunk's rows, one per line; prints the rows that come out
//
// V is values with commas between; ~ is an unchanged TOAST value, \N is NULL.
type script struct {
	t        *Tracker
	table    Table
	relation *pipeline.Relation
	taken    map[string]Snapshot
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{t: New(1 << 20), table: Table{Schema: "public", Name: "t"}, relation: describe(true, false), taken: map[string]Snapshot{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out, err := s.run(d)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			return out
		})
	})
}

func (s *script) run(d *datadriven.TestData) (string, error) {
	arg := func(i int) string {
		if i < len(d.CmdArgs) {
			return strings.TrimSuffix(d.CmdArgs[i].Key, ",")
		}
		return ""
	}
	switch d.Cmd {
	case "limit":
		n, err := strconv.Atoi(arg(0))
		s.t = New(n)
		return "", err
	case "follow":
		s.table.Key = nil
		for _, a := range d.CmdArgs {
			s.table.Key = append(s.table.Key, a.Key)
		}
		s.t.Follow(s.table)
		return s.state(), nil
	case "unfollow":
		s.t.Unfollow(s.table)
		return s.state(), nil
	case "relation":
		return "", s.describe(d)
	case "take":
		return s.take(d)
	case "begin":
		s.t.Begin(arg(0), s.table)
		return "", nil
	case "taken":
		snapshot, err := ParseSnapshot(arg(1))
		s.taken[arg(0)] = snapshot
		s.t.Taken(arg(0), snapshot)
		return s.state(), err
	case "drop":
		s.t.Drop(arg(0))
		return s.state(), nil
	case "fold":
		return s.fold(d, arg(0))
	}
	return "", fmt.Errorf("unknown command %s", d.Cmd)
}

// state is what is noted.
func (s *script) state() string {
	tb := s.t.tables[name{"public", "t"}]
	if tb == nil {
		return "not followed\n"
	}
	var xids []pipeline.XID
	for _, e := range tb.entries {
		xids = append(xids, e.xid)
	}
	out := fmt.Sprintf("noted %v", xids)
	if len(tb.lost) > 0 {
		out += fmt.Sprintf(" lost %v", tb.lost)
	}
	return out + "\n"
}

func (s *script) describe(d *datadriven.TestData) error {
	r := &pipeline.Relation{ID: s.relation.ID, Namespace: "public", Name: "t", Identity: 'd'}
	for _, a := range d.CmdArgs {
		if a.Key == "identity" {
			r.Identity = a.Vals[0][0]
			continue
		}
		name, typ, _ := strings.Cut(strings.TrimSuffix(a.Key, "*"), ":")
		n := 25
		if typ != "" {
			var err error
			if n, err = strconv.Atoi(typ); err != nil {
				return err
			}
		}
		r.Columns = append(r.Columns, pipeline.Column{Name: name, Type: uint32(n), Key: r.Identity == 'f' || strings.HasSuffix(a.Key, "*")})
	}
	s.relation = r
	return nil
}

func tupleOf(text string) []byte {
	var v []pipeline.Value
	for _, part := range strings.Split(text, ",") {
		switch part {
		case "~":
			v = append(v, pipeline.Value{Kind: pipeline.Unchanged})
		case `\N`:
			v = append(v, pipeline.Value{Kind: pipeline.Null})
		default:
			v = append(v, pipeline.Value{Kind: pipeline.Text, Data: []byte(part)})
		}
	}
	return appendTuple(nil, v)
}

func textOf(t pipeline.Tuple) string {
	var parts []string
	for _, v := range t.Values(nil) {
		switch v.Kind {
		case pipeline.Unchanged:
			parts = append(parts, "~")
		case pipeline.Null:
			parts = append(parts, `\N`)
		default:
			parts = append(parts, string(v.Data))
		}
	}
	return strings.Join(parts, ",")
}

func (s *script) take(d *datadriven.TestData) (string, error) {
	f := &pipeline.Fragment{Relations: []pipeline.RelationUse{{Relation: s.relation}}}
	var xid int
	if a, ok := d.Arg("xid"); ok {
		xid, _ = strconv.Atoi(a.Vals[0])
	}
	f.XID = pipeline.XID(xid)
	id := int(s.relation.ID)
	for line := range strings.Lines(d.Input) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch verb {
		case "insert":
			f.Append(append(append(appendLength([]byte{'I'}, id), 'N'), tupleOf(rest)...))
		case "update":
			msg := appendLength([]byte{'U'}, id)
			if old, after, ok := strings.Cut(rest, " -> "); ok {
				msg = append(append(msg, old[0]), tupleOf(old[2:])...)
				rest = after
			}
			f.Append(append(append(msg, 'N'), tupleOf(rest)...))
		case "delete":
			f.Append(append(append(appendLength([]byte{'D'}, id), rest[0]), tupleOf(rest[2:])...))
		case "truncate":
			f.Append(appendLength(append(appendLength([]byte{'T'}, 1), 0), id))
		case "ddl":
			m, err := ddlOf(rest)
			if err != nil {
				return "", err
			}
			f.Append(mark.Message(mark.DDLPrefix, m.Content(), 1))
		default:
			return "", fmt.Errorf("unknown change %q", line)
		}
	}
	if d.HasArg("spilled") {
		f.Content, f.Body = &elsewhere{b: f.Body, step: 3}, nil
	}
	moved, err := s.t.Take(f)
	if err != nil {
		return "", err
	}
	out := s.state()
	for _, m := range moved {
		if out += fmt.Sprintf("moved in %s: %v", m.Table, m.Keys); m.All {
			out += " all"
		}
		out += "\n"
	}
	return out, nil
}

// ddlOf reads "ALTER_TABLE table:public.t column:public.t".
func ddlOf(text string) (*mark.DDL, error) {
	parts := strings.Fields(text)
	m := &mark.DDL{Tag: strings.ReplaceAll(parts[0], "_", " ")}
	for _, p := range parts[1:] {
		kind, full, ok := strings.Cut(p, ":")
		schema, name, ok2 := strings.Cut(full, ".")
		if !ok || !ok2 {
			return nil, fmt.Errorf("object %q", p)
		}
		m.Objects = append(m.Objects, mark.DDLObject{Type: kind, Schema: schema, Name: name})
	}
	return m, nil
}

func (s *script) fold(d *datadriven.TestData, id string) (string, error) {
	c := &Chunk{ID: id, Table: s.table, Relation: s.relation, Snapshot: s.taken[id]}
	for line := range strings.Lines(d.Input) {
		msg := append(append(appendLength([]byte{byte(pipeline.Read)}, int(s.relation.ID)), 'N'), tupleOf(strings.TrimSpace(line))...)
		c.Body = append(appendLength(c.Body, len(msg)), msg...)
		c.Rows++
	}
	var content *elsewhere
	if d.HasArg("content") {
		content = &elsewhere{b: c.Body, step: 3}
		c.Content, c.Body = content, nil
	}
	into := &pipeline.Fragment{}
	into.Append(mark.Message(mark.CopyPrefix, []byte(`{}`), 1))
	if err := s.t.Fold(c, into); err != nil {
		if again := errors.Is(err, ErrAgain); into.Changes != 1 || into.Content != nil || content != nil && content.released {
			return "", fmt.Errorf("after an error (again: %v) the fragment is another", again)
		}
		return err.Error() + "\n" + s.state(), nil
	}
	var rows []string
	n := 0
	err := into.Walk(func(c *pipeline.Change) error {
		if n++; c.Op == pipeline.Read {
			rows = append(rows, textOf(c.New)+"\n")
		}
		return nil
	})
	if err != nil || n != into.Changes || into.Ops.Has(pipeline.Read) != (n > 1) {
		return "", fmt.Errorf("%d of %d changes: %v", n, into.Changes, err)
	}
	slices.Sort(rows)
	return strings.Join(rows, "") + s.state(), nil
}
