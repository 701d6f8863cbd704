package postgres

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
)

// TestClassify: what passes by itself, and what a person must mend.
func TestClassify(t *testing.T) {
	for _, tc := range []struct {
		code    string
		blocked bool
	}{
		{"40001", false},
		{"40P01", false},
		{"55P03", false},
		{"57014", false},
		{"25P03", false},
		{"25P04", false},
		{"25006", false},
		{"08006", false},
		{"53300", false},
		{"53100", false},
		{"57P01", false},
		{"57P03", false},
		{"58030", false},
		{"23505", true},
		{"23503", true},
		{"23514", true},
		{"42P01", true},
		{"42703", true},
		{"42501", true},
		{"22P02", true},
		{"22001", true},
		{"28P01", true},
		{"428C9", true},
		{"P0001", true},
		{"XX000", true},
		{"", true},
	} {
		err := classify(fmt.Errorf("insert: %w", &pgconn.PgError{Severity: "ERROR", Code: tc.code, Message: "m"}), &apply.Blocked{CSN: 7})
		var blocked *apply.Blocked
		if errors.As(err, &blocked) != tc.blocked {
			t.Errorf("%s: got %v, want blocked %v", tc.code, err, tc.blocked)
		}
		if tc.blocked && (!strings.HasPrefix(err.Error(), "csn 7: insert: ERROR: m") || !strings.Contains(err.Error(), ". Try: ")) {
			t.Errorf("%s: %v", tc.code, err)
		}
	}
	if err := errors.New("broken pipe"); classify(err, nil) != err {
		t.Error("an error of the connection must stay what it is")
	}
}

func TestConfigFaults(t *testing.T) {
	err := (&Config{Truncate: "x", Statements: -1}).Validate()
	for _, want := range []string{"subscription: is empty", "shards: 0, want at least 1", `truncate: "x", want stop, apply or ignore`, "must not be negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if _, err := New(Config{Subscription: "s", Shards: 1, DSN: "postgres://u:secret@h:bad/"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// TestSQL pins the statements.
func TestSQL(t *testing.T) {
	id := &column{name: "id", typ: "integer", equal: "=", leads: true}
	j := &column{name: `a"b`, typ: "json"}
	k := &column{name: "k", typ: "public.citext", equal: operator("public", "="), leads: true}
	p := &plan{table: &table{name: tableName{"s", "t"}}, columns: []*column{id, j, k}}
	part := &plan{table: &table{name: tableName{"s", "t"}, partitioned: true}, columns: p.columns}
	whole := locator{old: true, rest: []byte("nvv")}
	for _, tc := range []struct {
		got  *statement
		want string
	}{
		{p.insertSQL(false), `INSERT INTO "s"."t" ("id", "a""b", "k") OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3)`},
		{p.updateSQL([]byte("-sg"), locator{key: []int{0}}), `UPDATE ONLY "s"."t" AS t SET "a""b" = $1 WHERE t."id" = $2::integer AND t."k"::text IS NOT DISTINCT FROM $3::public.citext::text`},
		{p.updateSQL([]byte("---"), locator{key: []int{2}}), `SELECT FROM ONLY "s"."t" AS t WHERE t."k" OPERATOR("public".=) $1::public.citext`},
		{p.deleteSQL(whole), `DELETE FROM ONLY "s"."t" AS t WHERE t.ctid = (SELECT ctid FROM ONLY "s"."t" AS s WHERE s."k" OPERATOR("public".=) $1::public.citext AND ` +
			`s."id"::text IS NOT DISTINCT FROM $2::integer::text AND s."a""b"::text IS NOT DISTINCT FROM $3::json::text AND s."k"::text IS NOT DISTINCT FROM $4::public.citext::text LIMIT 1)`},
		{part.deleteSQL(locator{old: true, rest: []byte("---")}), `DELETE FROM "s"."t" AS t USING (SELECT ctid AS c, tableoid AS o FROM "s"."t" AS s LIMIT 1) AS x WHERE t.ctid = x.c AND t.tableoid = x.o`},
	} {
		if tc.got.sql != tc.want {
			t.Errorf("got  %s\nwant %s", tc.got.sql, tc.want)
		}
	}
}
