package feed

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"shardcdc/pipeline/format"
	"shardcdc/pipeline/mysql"
)

// awkward is a name of which clients with other character sets take the end for a part of a character.
const awkward = "a\u65e5"

// However the session and the client are set, PostgreSQL has what was sent.
func TestSettingsPostgreSQL(t *testing.T) {
	r := seeded(t)
	d := newDatabase(t, "settings")
	for _, c := range []struct{ environment, options string }{
		{"PGCLIENTENCODING=SJIS", ""},
		{"PGCLIENTENCODING=GBK", "--single-line"},
		{"PGOPTIONS=-c standard_conforming_strings=off -c backslash_quote=off -c DateStyle=German -c transform_null_equals=on", "--echo-all"},
		{"PGOPTIONS=-c default_transaction_isolation=serializable", "--single-transaction"},
		{"LC_ALL=C", "--set=AUTOCOMMIT=off"},
		{"LC_ALL=C", "--set=x=1; DROP TABLE canary;"},
	} {
		p := poison(r, false)
		p.r.Columns[1].Name = awkward
		d.exec("DROP TABLE IF EXISTS canary; CREATE TABLE canary (id int)")
		p.create(d)
		cmd := psqlCommand(d.name)
		cmd.Env = append(cmd.Environ(), c.environment)
		if c.options != "" {
			cmd.Args = append(cmd.Args, c.options)
		}
		cmd.Stdin = strings.NewReader(encoded(t, p.b, format.SQLOptions{Dialect: format.PostgreSQL}))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%+v: %v %.1000s", c, err, out)
		}
		var got []string
		for _, row := range d.rows(fmt.Sprintf("SELECT %s FROM public.%s ORDER BY key", pgName(awkward), pgName(p.r.Name))) {
			got = append(got, string(row[0]))
		}
		if !slices.Equal(got, p.rows) {
			t.Errorf("%+v: got %q\nwant %q", c, got, p.rows)
		}
		d.exec("DROP TABLE canary")
	}
}

// So has MariaDB: the client finds neither ends of statements nor commands of its own where there are none.
func TestSettingsMariaDB(t *testing.T) {
	r := seeded(t)
	db := newMariaDB(t, "settings")
	t.Cleanup(func() { query(t, db, "SET GLOBAL sql_mode = DEFAULT, autocommit = DEFAULT, time_zone = DEFAULT") })
	const bare = "sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES,PIPES_AS_CONCAT'"
	for _, c := range []struct{ name, global, option string }{
		{awkward, "sql_mode = DEFAULT", "--default-character-set=gbk"},
		{awkward, bare, "--default-character-set=gbk"},
		{"\u65e5\u672c", "sql_mode = DEFAULT", "--default-character-set=sjis"},
		{awkward, "autocommit = 0", "--default-character-set=latin1"},
		{`a\`, "autocommit = 1", "--binary-mode"},
		{`a\\`, bare, "--comments"},
		{"\\`; \\! exit", "time_zone = '+09:00'", "--named-commands"},
		{"delimiter", "sql_mode = DEFAULT", "--safe-updates"},
	} {
		query(t, db, "SET GLOBAL "+c.global)
		p := poison(r, true)
		p.r.Columns[1].Name = c.name
		feeds(t, mysqlClient(t, "settings", "DROP TABLE IF EXISTS canary; CREATE TABLE canary (id int);"))
		cmd := mysqlCommand("settings", c.option)
		cmd.Stdin = strings.NewReader(encoded(t, p.b, format.SQLOptions{Dialect: format.MySQL, CreateTables: true}) + "DELETE FROM canary;\n") // as a TRUNCATE is written
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("%+v: %v %.1000s", c, err, out)
		}
		table := "settings." + string(mysql.AppendName(nil, p.r.Name))
		var got []string
		for _, row := range query(t, db, fmt.Sprintf("SELECT %s FROM %s ORDER BY `key`", mysql.AppendName(nil, c.name), table)) {
			got = append(got, string(row[0]))
		}
		if !slices.Equal(got, p.rows) {
			t.Errorf("%+v: got %q\nwant %q", c, got, p.rows)
		}
		query(t, db, "SELECT * FROM settings.canary")
		query(t, db, "DROP TABLE "+table)
	}
}
