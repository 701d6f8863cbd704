package mysql_test

import (
	"fmt"
	"strings"
	"testing"
)

// Tables are made with as many columns as fit into a row of InnoDB in some way.
func TestWideTables(t *testing.T) {
	w := newWorld(t, 1)
	for i, c := range []struct {
		key, typ, value string
		columns         int
	}{
		{"int", "text", "'x'", 190},
		{"int", "varchar(10)", "'x'", 190},
		{"text", "varchar(60)", "repeat('é', 60)", 40},
		{"text", "varchar(255)", "repeat('x', 20)", 100},
		{"text", "char(63)", "'x'", 100},
		{"int", "timestamptz", "'2024-01-01Z'", 600},
		{"int", "numeric(30,5)", "1.5", 400},
		{"int", "int", "1", 1000},
	} {
		name := fmt.Sprintf("t%d", i)
		var columns []string
		for n := range c.columns {
			columns = append(columns, fmt.Sprintf("c%d %s", n, c.typ))
		}
		w.source("CREATE TABLE " + name + " (id " + c.key + " PRIMARY KEY, " + strings.Join(columns, ", ") + ")")
		w.source("INSERT INTO " + name + " VALUES ('1'" + strings.Repeat(", "+c.value, c.columns) + ")")
		if err := w.try(w.capture()); err != nil {
			t.Errorf("%d columns %s: %v", c.columns, c.typ, err)
		}
	}
	w.source("CREATE TABLE t (id int PRIMARY KEY, v varchar(60))")
	w.source("INSERT INTO t VALUES (1, 'x')")
	w.replay()
	w.want("SELECT data_type, character_maximum_length FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 't' AND column_name = 'v'", "varchar|60")
}
