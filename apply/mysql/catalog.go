package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mysql"
)

// tableName is a table of the source, or of the target.
type tableName struct{ schema, name string }

// String is the name as statements have it.
func (n tableName) String() string { return quote(n.schema) + "." + quote(n.name) }

func quote(name string) string { return string(mysql.AppendName(nil, name)) }

// table is a table of the target.
type table struct {
	name    tableName
	columns []*column
	keys    [][]*column // unique, of columns that are NOT NULL and whole; the primary key first
	uniques int         // unique indexes of any kind
}

type column struct {
	name      string
	mysql     mysql.Column
	generated bool
	notNull   bool
	folds     bool // its collation calls strings equal that are not
}

// column finds one by name: MySQL's columns have no case, so a name that is written otherwise is the same one.
func (t *table) column(name string) *column {
	for _, same := range []func(a, b string) bool{func(a, b string) bool { return a == b }, strings.EqualFold} {
		if i := slices.IndexFunc(t.columns, func(c *column) bool { return same(c.name, name) }); i >= 0 {
			return t.columns[i]
		}
	}
	return nil
}

// targetName is where a table of the source is.
func (s *session) targetName(schema, name string) tableName {
	database, name := mysql.Table(schema, name)
	if database == "" {
		database = s.database
	}
	return tableName{database, name}
}

// find reads a table's description; nil: it is not there.
func (s *session) find(ctx context.Context, name tableName) (*table, error) {
	if t := s.tables[name]; t != nil {
		return t, nil
	}
	engine, err := s.engine(ctx, name)
	if err != nil {
		return nil, classify(fmt.Errorf("look for %s: %w", name, err), nil)
	}
	switch engine {
	case "":
		return nil, nil
	case innoDB:
	default:
		return nil, &apply.Blocked{
			Table: name.String(), Problem: fmt.Sprintf("is no table with transactions on the target (%s)", engine),
			Try: fmt.Sprintf("ALTER TABLE %s ENGINE = InnoDB; it goes on by itself", name),
		}
	}
	t := &table{name: name}
	for _, learn := range []func(context.Context, *table) error{s.readColumns, s.readKeys} {
		if err := learn(ctx, t); err != nil {
			return nil, classify(fmt.Errorf("look at %s: %w", name, err), nil)
		}
	}
	s.tables[name] = t
	return t, nil
}

const innoDB = "InnoDB"

// engine is that of a table, or what else has the name; empty: nothing has.
func (s *session) engine(ctx context.Context, name tableName) (string, error) {
	var engine, kind sql.NullString
	err := s.query(ctx, "SELECT engine, table_type FROM information_schema.tables WHERE table_schema = ? AND table_name = ?",
		func(scan func(...any) error) error { return scan(&engine, &kind) }, name.schema, name.name)
	if kind.Valid && kind.String != "BASE TABLE" {
		return kind.String, err
	}
	return engine.String, err
}

func (s *session) readColumns(ctx context.Context, t *table) error {
	return s.query(ctx, `SELECT column_name, data_type, COALESCE(numeric_scale, datetime_precision, -1), extra, is_nullable, COALESCE(collation_name, '')
		FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position`, func(scan func(...any) error) error {
		var c column
		var extra, nullable, collation string
		err := scan(&c.name, &c.mysql.DataType, &c.mysql.Places, &extra, &nullable, &collation)
		// DEFAULT_GENERATED is a default that is an expression.
		extra = strings.ToUpper(extra)
		c.generated = strings.Contains(extra, "VIRTUAL") || strings.Contains(extra, "STORED") || strings.Contains(extra, "PERSISTENT")
		c.notNull = nullable == "NO"
		c.folds = collation != "" && !strings.HasSuffix(collation, "_bin") && collation != "binary"
		t.columns = append(t.columns, &c)
		return err
	}, t.name.schema, t.name.name)
}

func (s *session) readKeys(ctx context.Context, t *table) error {
	type index struct {
		whole   bool
		columns []*column
	}
	byName, names := map[string]*index{}, []string(nil)
	err := s.query(ctx, `SELECT index_name, COALESCE(column_name, ''), sub_part IS NULL FROM information_schema.statistics
		WHERE table_schema = ? AND table_name = ? AND non_unique = 0 ORDER BY index_name <> 'PRIMARY', index_name, seq_in_index`, func(scan func(...any) error) error {
		var name, column string
		var whole bool
		err := scan(&name, &column, &whole)
		x := byName[name]
		if x == nil {
			x = &index{whole: true}
			byName[name], names = x, append(names, name)
		}
		c := t.column(column)
		x.whole = x.whole && whole && column != "" && c != nil && c.notNull
		x.columns = append(x.columns, c)
		return err
	}, t.name.schema, t.name.name)
	for _, name := range names {
		t.uniques++
		if x := byName[name]; x.whole {
			t.keys = append(t.keys, x.columns)
		}
	}
	return err
}

// table finds a table that has to be there.
func (s *session) table(ctx context.Context, name tableName) (*table, error) {
	t, err := s.find(ctx, name)
	if t == nil && err == nil {
		err = &apply.Blocked{
			Table: name.String(), Problem: "is not on the target",
			Try: "create it there (docs/mysql.md has the types), or cdcctl alter-subscription " + s.cfg.Subscription + " --create-tables; it goes on by itself",
		}
	}
	return t, err
}

// make makes the table of a relation if it is missing. It commits, as every DDL does, so no transaction may be open; that nothing was
// applied yet is no harm, since an empty table means nothing.
func (s *session) make(ctx context.Context, r *pipeline.Relation) error {
	name := s.targetName(r.Namespace, r.Name)
	t, err := s.find(ctx, name)
	if t != nil || err != nil {
		return err
	}
	failed := &apply.Blocked{Table: name.String(), Problem: "cannot be made on the target", Try: "create it there; it goes on by itself"}
	text, err := mysql.AppendCreateTable(nil, r)
	if err != nil {
		failed.Err = err
		return failed
	}
	if name.schema != s.database {
		_, err = s.exec(ctx, "CREATE DATABASE IF NOT EXISTS "+quote(name.schema))
	}
	if err == nil {
		_, err = s.exec(ctx, string(text))
	}
	return classify(wrap("create "+name.String(), err), failed)
}
