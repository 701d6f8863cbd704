package feed

import (
	"fmt"
	"strings"
	"testing"

	"shardcdc/output/sql"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/mark"
)

// emptiable are tables that refer to each other and have names of all kinds, each with a row, and one that nobody mentions.
var emptiable = []string{
	"CREATE TABLE one (id int PRIMARY KEY)", "CREATE TABLE two (id int, one int, FOREIGN KEY (one) REFERENCES one (id))", `CREATE SCHEMA "s q"`,
	`CREATE TABLE "s q".three (id int)`, `CREATE TABLE "it's \` + "`" + `; DROP TABLE kept; --" (id int)`, "CREATE TABLE kept (id int)",
	"INSERT INTO one VALUES (1)", "INSERT INTO two VALUES (1, 1)", `INSERT INTO "s q".three VALUES (1)`, `INSERT INTO "it's \` + "`" + `; DROP TABLE kept; --" VALUES (1)`,
	"INSERT INTO kept VALUES (1)",
}

const countEmptiable = `SELECT (SELECT count(*) FROM one), (SELECT count(*) FROM two), (SELECT count(*) FROM "s q".three), (SELECT count(*) FROM "it's \` + "`" + `; DROP TABLE kept; --"), (SELECT count(*) FROM kept)`

const countInMariaDB = "SELECT (SELECT count(*) FROM empties.one), (SELECT count(*) FROM empties.two), (SELECT count(*) FROM `s q`.three), (SELECT count(*) FROM empties.`it's \\``; DROP TABLE kept; --`), (SELECT count(*) FROM empties.kept)"

// A copy that wants its tables empty empties those that are there at its mark, also where the statements make them: what comes behind the
// mark may be written by another encoder, of the next file, or after a restart.
func TestCopyEmpties(t *testing.T) {
	w := newWorld(t, 1)
	begin := mark.Copy{Kind: mark.Begin, Job: "j", TargetRows: mark.TargetTruncate}
	for _, name := range []string{"public.one", "public.two", "s q.three", "public.it's \\`; DROP TABLE kept; --"} {
		schema, table, _ := strings.Cut(name, ".")
		begin.Tables = append(begin.Tables, mark.Table{Schema: schema, Name: table, Keyed: true})
	}
	w.source("SELECT pg_logical_emit_message(true, 'cdc.copy', $j$" + string(begin.Content()) + "$j$)")
	txs := w.capture()
	file := func(dialect string, create bool) string {
		w.written = 0
		return w.encode(sql.New(sql.Config{Shards: w.names(), Options: format.SQLOptions{Dialect: dialect, CreateTables: create}}), dialect, txs)
	}
	for _, create := range []bool{false, true} {
		t.Run(fmt.Sprintf("postgresql create=%t", create), func(t *testing.T) {
			target := newDatabase(t, "empties_t")
			if create {
				feeds(t, psql(t, target.name, file(format.PostgreSQL, create))) // nothing is there
			}
			target.exec(emptiable...)
			feeds(t, psql(t, target.name, file(format.PostgreSQL, create)))
			if got := target.text(countEmptiable); got != "0|0|0|0|1\n" {
				t.Errorf("rows left: %s", got)
			}
		})
		t.Run(fmt.Sprintf("mysql create=%t", create), func(t *testing.T) {
			db := newMariaDB(t, "empties")
			query(t, db, "DROP DATABASE IF EXISTS `s q`")
			if create {
				feeds(t, mysqlClient(t, "empties", file(format.MySQL, create)))
			}
			feeds(t, mysqlClient(t, "empties", "SET sql_mode = 'ANSI_QUOTES'; "+strings.Join(emptiable, ";")))
			feeds(t, mysqlClient(t, "empties", file(format.MySQL, create)))
			if got := fmt.Sprintf("%s", query(t, db, countInMariaDB)); got != "[[0 0 0 0 1]]" {
				t.Errorf("rows left: %s", got)
			}
		})
	}
}
