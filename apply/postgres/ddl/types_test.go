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

func TestFits(t *testing.T) {
	usual := map[string]string{"TimeZone": "UTC", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres"}
	tokyo := map[string]string{"TimeZone": "Asia/Tokyo", "DateStyle": "German, DMY", "IntervalStyle": "postgres"}
	for _, c := range []struct {
		old, new string
		settings map[string]string
		want     bool
	}{
		{"integer", "bigint", usual, true},
		{"numeric(10,2)", "double precision", usual, true},
		{"real", "double precision", usual, false},
		{"double precision", "numeric", usual, false},
		{"double precision", "text", usual, true},
		{"character(5)", "text", usual, false},
		{"character(5)", "character(9)", usual, true},
		{"boolean", "text", usual, false},
		{"boolean[]", "text[]", usual, false},
		{"inet", "character varying(40)", usual, false},
		{"app.mood", "text", usual, true},
		{"timestamp(3) without time zone", "timestamp with time zone", usual, true},
		{"timestamp(3) without time zone", "timestamp with time zone", tokyo, false},
		{"timestamp without time zone", "date", tokyo, true},
		{"date", "text", usual, true},
		{"date", "text", tokyo, false},
	} {
		if got := ddl.Fits(c.old, c.new, c.settings); got != c.want {
			t.Errorf("%s to %s: %v", c.old, c.new, got)
		}
	}
}
