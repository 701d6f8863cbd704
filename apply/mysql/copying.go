package mysql

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

// copies is what the target holds in cdc_copying and cdc_progress about copies; see doc.go. It is read behind
// the progress, and changes in the target transactions that follow the marks.
type copies struct {
	tables         map[tableName]*copyOf // by the names on the source
	consistentFrom pipeline.CSN
}

// copyOf is a table whose rows are being copied.
type copyOf struct {
	job     string
	keyed   bool                      // a row has a key: changes may meet it or not
	merge   bool                      // there may be rows from before the copy
	arrived map[pipeline.ShardID]bool // without a key: the shards whose rows are here
}

// of finds the copy that a plan's table is in; nil: it is complete.
func (c *copies) of(p *plan) *copyOf { return c.tables[p.source] }

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

// readCopies reads cdc_copying. No older session can change it any more.
func (s *session) readCopies(ctx context.Context) error {
	s.copies.tables = map[tableName]*copyOf{}
	err := s.query(ctx, "SELECT table_schema, table_name, job, keyed, merge, arrived FROM cdc_copying WHERE subscription = ?", func(scan func(...any) error) error {
		var name tableName
		var arrived string
		c := &copyOf{arrived: map[pipeline.ShardID]bool{}}
		if err := scan(&name.schema, &name.name, &c.job, &c.keyed, &c.merge, &arrived); err != nil {
			return err
		}
		for _, text := range strings.Fields(arrived) {
			shard, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return err
			}
			c.arrived[pipeline.ShardID(shard)] = true
		}
		s.copies.tables[name] = c
		return nil
	}, s.cfg.Subscription)
	return classify(wrap("read cdc_copying on the target", err), nil)
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
		c := &copyOf{job: m.Job, keyed: t.Keyed, merge: m.TargetRows == mark.TargetMerge || skipped, arrived: map[pipeline.ShardID]bool{}}
		_, err := s.exec(ctx, "REPLACE INTO cdc_copying (subscription, table_schema, table_name, job, keyed, merge, arrived) VALUES (?, ?, ?, ?, ?, ?, '')",
			s.cfg.Subscription, t.Schema, t.Name, m.Job, t.Keyed, c.merge)
		if err != nil {
			return fmt.Errorf("write cdc_copying: %w", err)
		}
		s.copies.tables[tableName{t.Schema, t.Name}] = c
	}
	return nil
}

// prepareTables looks that every table can be filled, and deals with the rows that are there.
func (s *session) prepareTables(ctx context.Context, m *mark.Copy) error {
	var tables, full []*table
	merge := m.TargetRows == mark.TargetMerge
	for _, named := range m.Tables {
		t, err := s.find(ctx, s.targetName(named.Schema, named.Name))
		if err == nil && t == nil {
			if s.cfg.CreateTables {
				continue // its chunks make it
			}
			_, err = s.table(ctx, s.targetName(named.Schema, named.Name))
		}
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
			n := 0
			if err := s.conn.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+t.name.String()+")").Scan(&n); err != nil {
				return fmt.Errorf("look for rows in %s: %w", t.name, err)
			}
			if n > 0 {
				full = append(full, t)
			}
		}
	}
	switch m.TargetRows {
	case mark.TargetFail, mark.TargetMerge:
		return holdRows(full, merge)
	case mark.TargetTruncate:
		for _, t := range tables {
			if _, err := s.exec(ctx, "DELETE FROM "+t.name.String()); err != nil {
				return fmt.Errorf("empty %s: %w", t.name, err)
			}
		}
		return nil
	}
	return &apply.Fatal{Problem: fmt.Sprintf("copy: what to do with the target's rows is unknown: %q", m.TargetRows), Try: "run a newer version"}
}

// keyless says that the rows of a table that is being copied cannot be told apart.
func (t *table) keyless() error {
	return &apply.Blocked{
		Table:   t.name.String(),
		Problem: "is being copied by its key, and has none on the target (a primary key, or a unique index on NOT NULL columns, of columns that the source sends)",
		Try:     "create the source's primary key on the target; it goes on by itself",
	}
}

// holdRows says which tables have to be emptied by a person.
func holdRows(full []*table, merge bool) error {
	names := make([]string, len(full))
	for i, t := range full {
		names[i] = t.name.String()
	}
	return apply.HoldRows(names, merge, "DELETE them on the target")
}

// rowsArrived notes that a shard's rows of a table without a key are here.
func (s *session) rowsArrived(ctx context.Context, shard pipeline.ShardID, m *mark.Copy) error {
	for _, t := range m.Tables {
		c := s.copies.tables[tableName{t.Schema, t.Name}]
		if c == nil || c.keyed || c.job != m.Job || c.arrived[shard] {
			continue
		}
		_, err := s.exec(ctx, "UPDATE cdc_copying SET arrived = CONCAT(arrived, ?) WHERE subscription = ? AND table_schema = ? AND table_name = ?",
			" "+strconv.Itoa(int(shard)), s.cfg.Subscription, t.Schema, t.Name)
		if err != nil {
			return fmt.Errorf("write cdc_copying: %w", err)
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
		if _, err := s.exec(ctx, "DELETE FROM cdc_copying WHERE subscription = ? AND table_schema = ? AND table_name = ?", s.cfg.Subscription, t.Schema, t.Name); err != nil {
			return fmt.Errorf("write cdc_copying: %w", err)
		}
		delete(s.copies.tables, name)
	}
	if len(s.copies.tables) > 0 {
		return nil
	}
	if _, err := s.exec(ctx, "UPDATE cdc_progress SET consistent_from = ? WHERE subscription = ?", uint64(csn), s.cfg.Subscription); err != nil {
		return fmt.Errorf("write cdc_progress: %w", err)
	}
	s.copies.consistentFrom = csn
	return nil
}
