package subscribe

import (
	"slices"
	"strings"
	"testing"

	"shardcdc/pipeline/control"
)

// TestPatternsFollow: whatever joins is chosen afterwards, whatever leaves is not, and other tables are as before.
func TestPatternsFollow(t *testing.T) {
	for _, c := range []struct {
		name   string
		tables []string
		change func(*control.Subscription, []control.CopyTableName) error
		about  string
		want   []string
		fault  string
	}{
		{"a table joins named ones", []string{"public.a"}, include, "b", []string{"public.a", `"public"."b"`}, ""},
		{"one that a pattern chooses already", []string{"public.*"}, include, "b", []string{"public.*"}, ""},
		{"one that had left", []string{"public.*", `-"public"."b"`}, include, "b", []string{"public.*"}, ""},
		{"one that a pattern excludes", []string{"public.*", "-public.tmp_*"}, include, "tmp_1", nil, "table public.tmp_1 is excluded by the pattern -public.tmp_*"},
		{"a named table leaves", []string{"public.a", "public.b"}, exclude, "b", []string{"public.a"}, ""},
		{"one of a pattern leaves", []string{"public.*"}, exclude, "b", []string{"public.*", `-"public"."b"`}, ""},
		{"one that is named and matches", []string{"public.*", "public.b"}, exclude, "b", []string{"public.*", `-"public"."b"`}, ""},
		{"a name with capitals and a dot", []string{"public.*"}, exclude, "B.c", []string{"public.*", `-"public"."B.c"`}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := &control.Subscription{Name: "s", Tables: slices.Clone(c.tables)}
			err := c.change(sub, []control.CopyTableName{{Schema: "public", Name: c.about}})
			if c.fault != "" {
				if err == nil || !strings.Contains(err.Error(), c.fault) {
					t.Errorf("error %v, want %q", err, c.fault)
				}
				return
			}
			if err != nil || !slices.Equal(sub.Tables, c.want) {
				t.Errorf("%q, error %v, want %q", sub.Tables, err, c.want)
			}
		})
	}
}

// TestOrderOfTheCopy: it goes with what a failed Create takes back, and one that a dead Create left is not carried out.
func TestOrderOfTheCopy(t *testing.T) {
	bus := external(t, "", "10s")
	catalog, err := control.OpenCatalog(t.Context(), bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	copies, err := control.OpenCopies(t.Context(), bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	jobs := func() (rows []string) {
		t.Helper()
		all, err := copies.Jobs(t.Context(), "bank")
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range all {
			rows = append(rows, string(j.Kind)+" "+j.TargetRows)
		}
		return rows
	}
	if err := copies.PutJob(t.Context(), "bank", control.NewCopyJob(control.CopyInitial, nil, "truncate", "dead@host")); err != nil {
		t.Fatal(err)
	}
	spec := Spec{Name: "bank", Shards: []Shard{{Name: "a", DSN: "postgres://nowhere/bank"}}, CopyData: true}.withDefaults()
	c := &creation{bus: bus, catalog: catalog, spec: &spec, sub: spec.subscription(), made: []bool{false}}
	if err := c.finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := jobs(); !slices.Equal(got, []string{"initial fail"}) {
		t.Errorf("jobs after Create: %q", got)
	}
	if err := c.undo(t.Context(), t.Context().Err()); err == nil {
		t.Error("undo says that nothing happened")
	}
	if got := jobs(); len(got) > 0 {
		t.Errorf("jobs after undo: %q", got)
	}
}
