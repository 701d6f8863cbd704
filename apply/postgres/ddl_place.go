package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"shardcdc/apply"
	"shardcdc/apply/postgres/ddl"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// What has to be found out on the target, or done there, before a statement of the shards runs or waits.

// decide finds out from the target what the text does not say: whose tables are dropped, and whether a type becomes
// narrower.
func (r *ddlRun) decide(ctx context.Context) error {
	if err := errors.Join(r.spare(ctx), r.calls(ctx)); err != nil {
		return err
	}
	for _, t := range r.what.Types {
		rows, err := r.query(ctx, `SELECT pg_catalog.format_type(a.atttypid, a.atttypmod), coalesce(pg_catalog.format_type(pg_catalog.to_regtype($3), -1), $3)
			FROM pg_catalog.pg_attribute a WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attname = $2 AND NOT a.attisdropped`,
			t.Table.String(), t.Column, baseType(t.Type))
		if err != nil {
			return fmt.Errorf("look at the type of %s: %w", t.Column, err)
		}
		if len(rows) == 0 {
			continue
		}
		old, new := string(rows[0][0]), string(rows[0][1])+modifier(t.Type)
		switch {
		case r.what.Single && ddl.Narrows(old, new):
			r.what.Last = true
		case r.what.Between == "" && !ddl.Fits(old, new, r.d.Settings):
			r.what.Of, r.what.Between = t.Table, fmt.Sprintf("column %s gets other values when %s becomes %s than rows have that come from shards before they run it", quote(t.Column), old, new)
		}
	}
	return nil
}

// baseType and modifier take numeric(10,2) apart.
func baseType(t string) string {
	before, rest, _ := strings.Cut(t, "(")
	_, behind, _ := strings.Cut(rest, ")")
	return strings.TrimSpace(before) + behind
}

func modifier(t string) string {
	_, rest, ok := strings.Cut(t, "(")
	inside, _, _ := strings.Cut(rest, ")")
	if !ok {
		return ""
	}
	return "(" + inside + ")"
}

// relax lets rows in that have a column no longer, while others still have it.
func (r *ddlRun) relax(ctx context.Context) error {
	for _, e := range r.what.Effects {
		if e.Kind != ddl.DropColumn {
			continue
		}
		name := tableName{e.Table.Schema, e.Table.Name}
		rows, err := r.query(ctx, `SELECT 1 FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass($1) AND attname = $2 AND attnotnull AND NOT atthasdef AND attidentity = ''`,
			name.String(), e.From)
		if err != nil {
			return fmt.Errorf("look at column %s of %s: %w", quote(e.From), name, err)
		}
		if len(rows) == 0 {
			continue
		}
		if _, err := r.query(ctx, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL", name, quote(e.From))); err != nil {
			return fmt.Errorf("a column that some shards have dropped, and others not: %w", err)
		}
	}
	return nil
}

// calls finds out which functions may make other values here of the same rows.
func (r *ddlRun) calls(ctx context.Context) error {
	for _, c := range r.what.Calls {
		rows, err := r.query(ctx, `SELECT 1 FROM pg_catalog.pg_proc WHERE proname = $1 AND (provolatile = 'v'
			OR proname IN ('now', 'transaction_timestamp', 'statement_timestamp', 'txid_current_snapshot', 'pg_current_snapshot')) LIMIT 1`, c.Function)
		if err != nil {
			return fmt.Errorf("look at function %s: %w", c.Function, err)
		}
		if len(rows) > 0 {
			r.what.Values = fmt.Sprintf("column %s gets what the volatile function %s returns", quote(c.Column), c.Function)
		}
	}
	return nil
}

// between stops where rows of shards that have not run the statement would not become what they become there.
func (r *ddlRun) between() error {
	shards := map[pipeline.ShardID]bool{}
	for _, f := range r.tx.Fragments {
		shards[f.Shard] = true
	}
	if r.what.Between == "" || len(shards) == r.cfg.Shards {
		return nil
	}
	return &apply.Blocked{
		CSN: r.tx.CSN, Table: r.what.Of.String(), Problem: r.problem("cannot be run here by itself, because shards run it one after the other, and " + r.what.Between),
		Try: r.byHand() + fmt.Sprintf(". When every shard has run it: cdcctl resync %s --table %s.%s", r.cfg.Subscription, r.what.Of.Schema, r.what.Of.Name),
	}
}

// values stops where rows that are there would get other values than on the shards.
func (r *ddlRun) values(ctx context.Context) error {
	if r.what.Values == "" {
		return nil
	}
	for _, o := range r.d.Objects {
		if o.Type != mark.DDLTable {
			continue
		}
		shards := map[pipeline.ShardID]bool{}
		for _, f := range r.tx.Fragments {
			shards[f.Shard] = true
		}
		name := tableName{o.Schema, o.Name}
		t, err := r.table(ctx, name)
		if err != nil {
			return err
		}
		rows, err := r.query(ctx, "SELECT 1 FROM "+t.from()+" LIMIT 1")
		if err != nil {
			return fmt.Errorf("look for rows in %s: %w", name, err)
		}
		if len(rows) == 0 && len(shards) == r.cfg.Shards {
			continue
		}
		b := &apply.Blocked{CSN: r.tx.CSN, Table: name.String(), Problem: r.problem("cannot be run here by itself, because in rows that are there " + r.what.Values + ", which only each shard knows")}
		b.Try = r.byHand() + fmt.Sprintf(". Then copy these values: cdcctl resync %s --table %s.%s", r.cfg.Subscription, o.Schema, o.Name)
		return b
	}
	return nil
}

// partition looks at what becomes of a partition's rows.
func (r *ddlRun) partition(ctx context.Context) (outcome string, err error) {
	if r.what.PartitionOf.Name == "" {
		return "", nil
	}
	detach := !r.what.Attach && r.d.Tag == "ALTER TABLE"
	root, err := r.relkind(ctx, r.what.PartitionOf.String())
	if err != nil {
		return "", err
	}
	filled := slices.ContainsFunc(r.d.Filled, func(t mark.Table) bool {
		return t.Name == r.what.Partition.Name && (r.what.Partition.Schema == "" || t.Schema == r.what.Partition.Schema)
	})
	switch {
	case root == "r" && detach:
		return "", r.blocked("cannot be run here by itself, because the table is not partitioned here: which rows leave it cannot be told", nil)
	case root == "r" && !(r.what.Attach && filled):
		return outcomeTarget, nil
	case !r.what.Attach || !filled:
		return "", nil
	}
	if root == "p" {
		kind, err := r.relkind(ctx, r.what.Partition.String())
		if err != nil {
			return "", err
		}
		if kind != "" {
			rows, err := r.found(ctx, r.what.Partition.String())
			if err != nil || rows {
				return "", err // its rows came through the stream
			}
		}
	}
	return "", r.blocked("brings in rows of a table that are not in the stream", nil)
}

// spare keeps tables that only have the name of a table that a shard dropped: those that are neither partitions here nor
// were made by a statement of the shards.
func (r *ddlRun) spare(ctx context.Context) error {
	var spared []ddl.Name
	for _, n := range r.what.Doubtful {
		rows, err := r.query(ctx, `SELECT 1 FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1) AND NOT relispartition AND NOT EXISTS (
			SELECT FROM cdc.ddl WHERE subscription = $2 AND outcome = $3 AND effects OPERATOR(pg_catalog.@>) pg_catalog.jsonb_build_array(
				pg_catalog.jsonb_build_object('kind', $4::text, 'of', pg_catalog.jsonb_build_object('schema', $5::text, 'table', $6::text))))`,
			n.String(), r.cfg.Subscription, outcomeRan, ddl.CreateTable, n.Schema, n.Name)
		if err != nil {
			return fmt.Errorf("look at table %s: %w", n, err)
		}
		if len(rows) > 0 {
			spared = append(spared, n)
		}
	}
	if len(spared) > 0 {
		r.what.Spare(spared)
		r.what.Effects = slices.DeleteFunc(r.what.Effects, func(e ddl.Effect) bool { return e.Kind == ddl.DropTable && slices.Contains(spared, e.Table) })
	}
	return nil
}

// inPath runs a query with the statement's search path.
func (r *ddlRun) inPath(ctx context.Context, sql string, args ...string) ([][][]byte, error) {
	if _, err := r.query(ctx, "SELECT pg_catalog.set_config('search_path', $1, true)", r.d.SearchPath); err != nil {
		return nil, err
	}
	rows, err := r.query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	_, err = r.query(ctx, "SELECT pg_catalog.set_config('search_path', '', true)")
	return rows, err
}

// relkind of a relation by its name in the statement; empty: there is none.
func (r *ddlRun) relkind(ctx context.Context, name string) (string, error) {
	rows, err := r.inPath(ctx, "SELECT relkind FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1)", name)
	if err != nil || len(rows) == 0 {
		return "", err
	}
	return string(rows[0][0]), nil
}

func (r *ddlRun) found(ctx context.Context, name string) (bool, error) {
	rows, err := r.inPath(ctx, "SELECT 1 FROM "+name+" LIMIT 1")
	return len(rows) > 0, err
}

// settle runs what still waits for other shards, and what this statement builds on: a shard that dropped something and
// makes it anew is ahead of the others. Their rows of what is gone are left out until they have dropped it, too.
func (r *ddlRun) settle(ctx context.Context, entry *ddlEntry) error {
	for _, e := range slices.Clone(r.ddl.entries) {
		if e == entry {
			return nil // it does not build on what came later
		}
		if e.executed || !slices.ContainsFunc(e.effects, r.buildsOn) {
			continue
		}
		outcome, err := r.run(ctx, e.script, false)
		if err != nil {
			return err
		}
		e.executed, e.outcome = true, outcome
		if err := r.writeDDL(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (r *ddlRun) buildsOn(e ddl.Effect) bool {
	about := slices.ContainsFunc(r.d.Objects, func(o mark.DDLObject) bool {
		return !o.Dropped && o.Schema == e.Table.Schema && o.Name == e.Table.Name
	})
	switch e.Kind {
	case ddl.DropTable:
		return about
	case ddl.DropColumn:
		return about && r.what.Mentions(e.From) || r.what.Mentions("like") && r.what.Mentions(e.Table.Name)
	case ddl.Default:
		return about && r.what.Mentions(e.From)
	}
	return false
}
