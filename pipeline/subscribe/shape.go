package subscribe

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/shape"
)

// Rules are checked against the tables as the shards have them; targets are looked at under the names that the rules give.

// factsSQL describes tables as their changes will, and what else a check of rules wants to know. Of a domain pgoutput names the
// base type.
const factsSQL = `
SELECT n.nspname, c.relname, c.oid, c.relreplident::text, coalesce((
  SELECT json_agg(json_build_object('name', a.attname, 'type', a.atttypid::int8, 'modifier', a.atttypmod, 'not_null', a.attnotnull,
    'large', a.attlen < 0 AND a.attstorage <> 'p', 'base', b.typname, 'base_schema', bn.nspname,
    'key', CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false ELSE EXISTS (
      SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
        AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END) END) ORDER BY a.attnum)
  FROM pg_catalog.pg_attribute a
  CROSS JOIN LATERAL (
    WITH RECURSIVE up(oid, below, kind) AS (
      SELECT t.oid, t.typbasetype, t.typtype FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid
      UNION ALL SELECT t.oid, t.typbasetype, t.typtype FROM up JOIN pg_catalog.pg_type t ON t.oid = up.below WHERE up.kind = 'd')
    SELECT up.oid FROM up WHERE up.kind <> 'd') u
  JOIN pg_catalog.pg_type b ON b.oid = u.oid JOIN pg_catalog.pg_namespace bn ON bn.oid = b.typnamespace
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND w.columns ? a.attname::text), '[]'), coalesce((
  SELECT json_agg((SELECT json_agg(a.attname ORDER BY k) FROM generate_series(0, i.indnkeyatts - 1) AS k
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[k]))
  FROM pg_catalog.pg_index i
  WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
    AND NOT EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) AS k
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[k] WHERE NOT a.attnotnull)), '[]')
FROM jsonb_to_recordset($1) AS w(schema text, name text, columns jsonb)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
ORDER BY n.nspname, c.relname`

// columnFacts are of factsSQL.
type columnFacts struct {
	Name       string
	Type       uint32
	Modifier   int32
	NotNull    bool `json:"not_null"`
	Large      bool
	Key        bool
	Base       string
	BaseSchema string `json:"base_schema"`
}

// facts asks a shard about tables.
func (d *database) facts(ctx context.Context, tables []table) (all []*shape.Facts, err error) {
	rows, err := d.Query(ctx, factsSQL, wantedOf(tables))
	if err != nil {
		return nil, fmt.Errorf("look at the tables' columns: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		r, identity := &pipeline.Relation{}, ""
		var columns, unique []byte
		if err := rows.Scan(&r.Namespace, &r.Name, &r.ID, &identity, &columns, &unique); err != nil {
			return nil, fmt.Errorf("look at the tables' columns: %w", err)
		}
		f := &shape.Facts{Relation: r}
		r.Identity = identity[0]
		var list []columnFacts
		if err := json.Unmarshal(columns, &list); err != nil {
			return nil, fmt.Errorf("the columns of %s: %w", r, err)
		}
		if err := json.Unmarshal(unique, &f.Unique); err != nil {
			return nil, fmt.Errorf("the indexes of %s: %w", r, err)
		}
		for _, c := range list {
			addColumn(f, c)
		}
		all = append(all, f)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look at the tables' columns: %w", err)
	}
	return all, nil
}

func addColumn(f *shape.Facts, c columnFacts) {
	f.Relation.Columns = append(f.Relation.Columns, pipeline.Column{Name: c.Name, Key: c.Key, Type: c.Type, Modifier: c.Modifier})
	if c.Type >= pipeline.FirstUserOID {
		f.Relation.Types = append(f.Relation.Types, pipeline.Type{OID: c.Type, Namespace: c.BaseSchema, Name: c.Base})
	}
	if c.NotNull {
		f.NotNull = append(f.NotNull, c.Name)
	}
	if c.Large {
		f.Large = append(f.Large, c.Name)
	}
}

// checkShape looks whether the rules fit the tables of a shard.
func (c *shardCheck) checkShape(ctx context.Context, db *database, about string, s *shape.Shape) error {
	if s == nil {
		return nil
	}
	facts, err := db.facts(ctx, c.tables)
	if err != nil {
		return err
	}
	for _, f := range facts {
		c.findings = append(c.findings, ofShape(about, s.Check(f))...)
	}
	return nil
}

func ofShape(about string, found []shape.Finding) (findings []Finding) {
	for _, f := range found {
		one := FaultOf(about, fmt.Errorf("shape: %s", f.Text))
		if !f.Fault {
			one.Severity = Warning
		}
		findings = append(findings, one)
	}
	return findings
}

// shapeNames looks at tables of all shards together; all says that the subscription has no other.
func shapeNames(s *shape.Shape, tables []table, all bool) (findings []Finding) {
	if s == nil || len(tables) == 0 {
		return nil
	}
	names := make([][2]string, len(tables))
	for i, t := range tables {
		names[i] = [2]string{t.schema, t.name}
	}
	for _, err := range unjoin(s.CheckNames(names)) {
		findings = append(findings, FaultOf("", fmt.Errorf("shape: %w", err)))
	}
	if all {
		findings = append(findings, ofShape("", s.CheckUse(names))...)
	}
	return findings
}

// inStream are tables as the stream has them.
func inStream(s *shape.Shape, tables []table) []table {
	if s == nil {
		return tables
	}
	var all []table
	for _, t := range tables {
		if s.Excluded(t.schema, t.name) {
			continue
		}
		key := s.Columns(t.schema, t.name, t.key)
		if len(key) < len(t.key) {
			key = nil
		}
		t.whole = t.whole && !s.Keyed(t.schema, t.name)
		t.columns, t.key = s.Columns(t.schema, t.name, t.columns), key
		t.schema, t.name = s.Name(t.schema, t.name)
		t.above = nil
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b table) int { return strings.Compare(a.quoted(), b.quoted()) })
	return all
}

// remember notes which tables of the shards have rules, as they are published now.
func remember(ctx context.Context, sub *control.Subscription) error {
	if sub.Shape == nil {
		return nil
	}
	return parallel(len(sub.Shards), func(i int) error {
		sh := &sub.Shards[i]
		db, err := open(ctx, sh.DSN)
		if err != nil {
			return err
		}
		defer db.hangUp()
		tables, err := shardTables(ctx, db, &Spec{Publications: sh.Publications})
		if err != nil {
			return fmt.Errorf("shard %s: %w", sh.Name, err)
		}
		if sh.Ruled, err = ruled(ctx, db, sub.Shape, tables); err != nil {
			return fmt.Errorf("shard %s: %w", sh.Name, err)
		}
		return nil
	})
}

// ruled are the tables that have rules.
func ruled(ctx context.Context, db *database, s *shape.Shape, tables []table) (all []shape.Ruled, err error) {
	facts, err := db.facts(ctx, tables)
	if err != nil {
		return nil, err
	}
	for _, f := range facts {
		if r := f.Relation; s.Rule(r.Namespace, r.Name) != nil {
			all = append(all, shape.Ruled{ID: r.ID, Schema: r.Namespace, Table: r.Name})
		}
	}
	return all, nil
}

// remember notes which of the tables that join have rules.
func (c *changing) remember(ctx context.Context) (joining [][]shape.Ruled, err error) {
	joining = make([][]shape.Ruled, len(c.members))
	if c.sub.Shape == nil {
		return joining, nil
	}
	return joining, c.each(func(i int) error {
		db, err := open(ctx, c.sub.Shards[i].DSN)
		if err != nil {
			return err
		}
		defer db.hangUp()
		joining[i], err = ruled(ctx, db, c.sub.Shape, c.members[i].absent())
		return err
	})
}

// addRuled adds tables to those that are remembered; it may be repeated.
func addRuled(sub *control.Subscription, joining [][]shape.Ruled) {
	for i, tables := range joining {
		sh := &sub.Shards[i]
		for _, t := range tables {
			sh.Ruled = append(slices.DeleteFunc(sh.Ruled, func(r shape.Ruled) bool { return r.ID == t.ID }), t)
		}
	}
}
