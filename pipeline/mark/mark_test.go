package mark_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// A mark in a body is what Walk gives back.
func TestMarksInABody(t *testing.T) {
	begin := mark.Copy{
		Kind: mark.Begin, Job: "j", TargetRows: mark.TargetMerge,
		Tables: []mark.Table{{Schema: "public", Name: "t", Keyed: true}, {Schema: "s", Name: `"x`}},
	}
	ddl := mark.DDL{
		Subscription: "s", Statement: "ALTER TABLE t ADD c int", Tag: "ALTER TABLE", Nth: 1, SearchPath: "public",
		Objects: []mark.DDLObject{{Type: mark.DDLTable, Schema: "public", Name: "t"}},
	}
	f := &pipeline.Fragment{}
	f.Append(mark.Message(mark.CopyPrefix, begin.Content(), 7))
	f.Append(mark.Message(mark.DDLPrefix, ddl.Content(), 8))
	n := 0
	err := f.Walk(func(c *pipeline.Change) error {
		n++
		m, isCopy, err := mark.CopyOf(c)
		if err != nil {
			return err
		}
		d, isDDL, err := mark.DDLOf(c)
		if err != nil {
			return err
		}
		switch {
		case n == 1 && (!isCopy || isDDL || c.LSN != 7 || !cmp.Equal(m, begin)):
			t.Errorf("first: %+v", m)
		case n == 2 && (isCopy || !isDDL || c.LSN != 8 || !cmp.Equal(d, ddl)):
			t.Errorf("second: %+v", d)
		}
		return nil
	})
	if err != nil || n != 2 || f.Changes != 2 {
		t.Errorf("%d changes, %v", n, err)
	}
}

// Only what carries the token is a mark of the subscription.
func TestFrom(t *testing.T) {
	for content, want := range map[string]bool{
		`{"token":"t","mark":"begin","job":"j"}`: true,
		`{"mark":"begin","token":"t"}`:           true,
		`{"token":"u"}`:                          false,
		`{"mark":"begin"}`:                       false,
		`{"token":7}`:                            false,
		`{"token":"t"`:                           false,
		`nonsense`:                               false,
		``:                                       false,
	} {
		if got := mark.From([]byte(content), "t"); got != want {
			t.Errorf("%s: %t", content, got)
		}
	}
}

func TestUnknownMarks(t *testing.T) {
	for _, text := range []string{"", "{}", `{"mark":"middle","job":"j"}`, `{"mark":"end","job":"j","tablets":[]}`} {
		if _, err := mark.ParseCopy([]byte(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
	if _, err := mark.ParseDDL([]byte(`{"sql":"x"}`)); err == nil {
		t.Error("an unknown field was read")
	}
}
