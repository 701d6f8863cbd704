package ddl_test

import (
	"testing"

	"shardcdc/apply/postgres/ddl"
)

func TestNarrows(t *testing.T) {
	for _, c := range []struct {
		old, new string
		want     bool
	}{
		{"integer", "bigint", false},
		{"bigint", "integer", true},
		{"integer", "numeric(10,2)", false},
		{"text", "character varying(10)", true},
		{"character varying(10)", "text", false},
		{"character varying(10)", "character varying(20)", false},
		{"character varying(20)", "character varying(10)", true},
		{"character varying(10)", "character varying", false},
		{"numeric(10,2)", "numeric(12,2)", false},
		{"numeric(10,2)", "numeric(12,6)", true},
		{"numeric", "numeric(12,6)", true},
		{"timestamp(3) without time zone", "timestamp without time zone", false},
		{"timestamp without time zone", "date", true},
		{"text", "integer", true},
		{"integer", "text", false},
		{"uuid", "text", false},
		{"double precision", "real", true},
	} {
		if got := ddl.Narrows(c.old, c.new); got != c.want {
			t.Errorf("%s to %s: %v", c.old, c.new, got)
		}
	}
}
