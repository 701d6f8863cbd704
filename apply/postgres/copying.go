package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// copies is what the target holds in cdc.copying and cdc.progress about copies; see doc.go. It is read behind
// the progress, and changes in the target transactions that follow the marks.
type copies struct {
	tables         map[tableName]*copyOf // by the names on the source
	consistentFrom pipeline.CSN
}

// copyOf is a table whose rows are being copied.
type copyOf struct {
	source  tableName
	job     string
	keyed   bool                      // a row has a key: changes may meet it or not
	merge   bool                      // there may be rows from before the copy
	arrived map[pipeline.ShardID]bool // without a key: the shards whose rows are here

	conflicts bool // rows were in the way of copied ones; not kept
}

// of finds the copy that a plan's table is in; nil: it is complete.
func (c *copies) of(p *plan) *copyOf {
	if len(c.tables) == 0 {
		return nil
	}
	return c.tables[p.source]
}

func (c *copies) knows(job string) bool {
	for _, t := range c.tables {
		if t.job == job {
			return true
		}
	}
	return false
}

// counts says whether what a shard does to the table is to be done here: else its rows, which come, contain it.
func (c *copyOf) counts(shard pipeline.ShardID) bool { return c == nil || c.keyed || c.arrived[shard] }

// lenient says that rows may be missing, or be here already.
func (c *copyOf) lenient() bool { return c != nil && c.keyed }

// Copies is described by apply.Session.
func (s *session) Copies() apply.Copies {
	out := apply.Copies{ConsistentFrom: s.copies.consistentFrom}
	for name := range s.copies.tables {
		out.Tables = append(out.Tables, name.schema+"."+name.name)
	}
	slices.Sort(out.Tables)
	return out
}

// readCopies reads cdc.copying. No older session can change it any more.
func (s *session) readCopies(ctx context.Context) error {
	s.copies.tables = map[tableName]*copyOf{}
	rows, err := s.query(ctx, "SELECT table_schema, table_name, job, keyed, merge, pg_catalog.array_to_string(arrived, ',') FROM cdc.copying WHERE subscription = $1", s.cfg.Subscription)
	if err != nil {
		return blockedIfRight(fmt.Errorf("read cdc.copying on the target: %w", err),
			fmt.Sprintf("GRANT SELECT, INSERT, UPDATE, DELETE ON cdc.copying TO %s; it goes on by itself", quote(s.user())))
	}
	for _, r := range rows {
		c := &copyOf{
			source: tableName{string(r[0]), string(r[1])}, job: string(r[2]), keyed: string(r[3]) == "t", merge: string(r[4]) == "t",
			arrived: map[pipeline.ShardID]bool{},
		}
		for _, text := range strings.FieldsFunc(string(r[5]), func(c rune) bool { return c == ',' }) {
			shard, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return fmt.Errorf("read cdc.copying: %w", err)
			}
			c.arrived[pipeline.ShardID(shard)] = true
		}
		s.copies.tables[c.source] = c
	}
	return nil
}

// copyMark does what a mark of a copy says. A transaction that is left out on request keeps its marks: only what a target's
// rows would stand in the way of is left undone.
func (s *session) copyMark(ctx context.Context, csn pipeline.CSN, shard pipeline.ShardID, m *mark.Copy, skipped bool) error {
	var err error
	switch m.Kind {
	case mark.Begin:
		err = s.beginCopy(ctx, m, skipped)
	case mark.Rows:
		err = s.rowsArrived(ctx, shard, m)
	case mark.End:
		err = s.endCopy(ctx, csn, m)
	case mark.High: // of a chunk that another node read: there will be no rows under it
	}
	return at(csn, classify(err, &apply.Blocked{CSN: csn, Problem: "copy: mark " + string(m.Kind)}))
}

// beginCopy makes the target ready for the rows of a job. The same mark may come again after a crash of its writer.
func (s *session) beginCopy(ctx context.Context, m *mark.Copy, skipped bool) error {
	if s.copies.knows(m.Job) {
		return nil
	}
	if !skipped {
		if err := s.prepareTables(ctx, m); err != nil {
			return err
		}
	}
	for _, t := range m.Tables {
		c := &copyOf{
			source: tableName{t.Schema, t.Name}, job: m.Job, keyed: t.Keyed,
			merge: m.TargetRows == mark.TargetMerge || skipped, arrived: map[pipeline.ShardID]bool{},
		}
		c.conflicts = c.merge
		_, err := s.query(ctx, `INSERT INTO cdc.copying (subscription, table_schema, table_name, job, keyed, merge, arrived) VALUES ($1, $2, $3, $4, $5, $6, '{}')
			ON CONFLICT (subscription, table_schema, table_name) DO UPDATE SET job = excluded.job, keyed = excluded.keyed, merge = excluded.merge, arrived = excluded.arrived`,
			s.cfg.Subscription, t.Schema, t.Name, m.Job, strconv.FormatBool(t.Keyed), strconv.FormatBool(c.merge))
		if err != nil {
			return fmt.Errorf("write cdc.copying: %w", err)
		}
		s.copies.tables[c.source] = c
	}
	return nil
}

// prepareTables looks that every table can be filled, and deals with the rows that are there.
func (s *session) prepareTables(ctx context.Context, m *mark.Copy) error {
	var tables, full []*table
	merge := m.TargetRows == mark.TargetMerge
	for _, named := range m.Tables {
		schema, name := s.cfg.Map(named.Schema, named.Name)
		if s.cfg.CreateTables {
			if there, err := s.exists(ctx, tableName{schema, name}); err != nil {
				return err
			} else if !there {
				continue // the first chunk makes it
			}
		}
		t, err := s.table(ctx, tableName{schema, name})
		if err != nil {
			return err
		}
		if named.Keyed && len(t.keys) == 0 {
			return t.keyless()
		}
		if slices.Contains(tables, t) {
			continue
		}
		tables = append(tables, t)
		if m.TargetRows == mark.TargetFail || merge && !named.Keyed {
			there, err := s.query(ctx, "SELECT 1 FROM "+t.from()+" LIMIT 1")
			if err != nil {
				return fmt.Errorf("look for rows in %s: %w", t.name, err)
			}
			if len(there) > 0 {
				full = append(full, t)
			}
		}
	}
	switch m.TargetRows {
	case mark.TargetFail, mark.TargetMerge:
		return holdRows(full, merge)
	case mark.TargetTruncate:
		return s.empty(ctx, tables)
	}
	return &apply.Fatal{Problem: fmt.Sprintf("copy: what to do with the target's rows is unknown: %q", m.TargetRows), Try: "run a newer version"}
}

// keyless says that the rows of a table that is being copied cannot be told apart.
func (t *table) keyless() error {
	return &apply.Blocked{
		Table:   t.name.String(),
		Problem: "is being copied by its key, and has none on the target (a primary key, or a unique index on NOT NULL columns, not DEFERRABLE, of columns that the source sends)",
		Try:     "create the source's primary key on the target; it goes on by itself",
	}
}

// holdRows says which tables have to be emptied by a person.
func holdRows(full []*table, merge bool) error {
	names := make([]string, len(full))
	for i, t := range full {
		names[i] = t.name.String()
	}
	return apply.HoldRows(names, merge, "TRUNCATE it on the target")
}

// empty empties tables: with TRUNCATE, but with DELETE those that a table outside refers to, which PostgreSQL does not
// truncate. Such references dangle until the rows are there again.
func (s *session) empty(ctx context.Context, tables []*table) error {
	if len(tables) == 0 {
		return nil
	}
	oids := make([]string, len(tables))
	for i, t := range tables {
		oids[i] = t.oid
	}
	rows, err := s.query(ctx, "SELECT DISTINCT confrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' AND confrelid = ANY ($1::oid[]) AND conrelid <> ALL ($1::oid[])",
		"{"+strings.Join(oids, ",")+"}")
	if err != nil {
		return fmt.Errorf("look for foreign keys: %w", err)
	}
	var truncate []string
	for _, t := range tables {
		referred := slices.ContainsFunc(rows, func(r [][]byte) bool { return string(r[0]) == t.oid })
		if !referred {
			truncate = append(truncate, t.from())
			continue
		}
		if _, err := s.query(ctx, "DELETE FROM "+t.from()); err != nil {
			return fmt.Errorf("empty %s: %w", t.name, err)
		}
	}
	if len(truncate) > 0 {
		if _, err := s.query(ctx, "TRUNCATE "+strings.Join(truncate, ", ")); err != nil {
			return fmt.Errorf("empty tables that are to be copied: %w", err)
		}
	}
	return nil
}

// rowsArrived notes that a shard's rows of a table without a key are here.
func (s *session) rowsArrived(ctx context.Context, shard pipeline.ShardID, m *mark.Copy) error {
	for _, t := range m.Tables {
		c := s.copies.tables[tableName{t.Schema, t.Name}]
		if c == nil || c.keyed || c.job != m.Job || c.arrived[shard] {
			continue
		}
		_, err := s.query(ctx, "UPDATE cdc.copying SET arrived = arrived || $4::int WHERE subscription = $1 AND table_schema = $2 AND table_name = $3",
			s.cfg.Subscription, t.Schema, t.Name, strconv.Itoa(int(shard)))
		if err != nil {
			return fmt.Errorf("write cdc.copying: %w", err)
		}
		c.arrived[shard] = true
	}
	return nil
}

// endCopy ends the leniency for a job's tables. When no table is left the target is as the source was at csn.
func (s *session) endCopy(ctx context.Context, csn pipeline.CSN, m *mark.Copy) error {
	for _, t := range m.Tables {
		name := tableName{t.Schema, t.Name}
		if c := s.copies.tables[name]; c == nil || c.job != m.Job {
			continue // another job copies it anew
		}
		_, err := s.query(ctx, "DELETE FROM cdc.copying WHERE subscription = $1 AND table_schema = $2 AND table_name = $3",
			s.cfg.Subscription, t.Schema, t.Name)
		if err != nil {
			return fmt.Errorf("write cdc.copying: %w", err)
		}
		delete(s.copies.tables, name)
	}
	if len(s.copies.tables) > 0 {
		return nil
	}
	if _, err := s.query(ctx, "UPDATE cdc.progress SET consistent_from = $2 WHERE subscription = $1", s.cfg.Subscription, csn.String()); err != nil {
		return fmt.Errorf("write cdc.progress: %w", err)
	}
	s.copies.consistentFrom = csn
	return nil
}
