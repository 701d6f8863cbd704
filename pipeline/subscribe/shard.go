package subscribe

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
)

// provision prepares one shard: publication before slot, so that the slot sees it from its first change on. What it made
// is gone again when it fails.
func provision(ctx context.Context, spec *Spec, sh *control.Shard) (Notes, error) {
	ctx, cancel := context.WithTimeout(ctx, spec.SlotTimeout)
	defer cancel()
	db, err := open(ctx, sh.DSN)
	if err != nil {
		return nil, fmt.Errorf("shard %s: %w", sh.Name, err)
	}
	defer db.hangUp()
	id, err := db.identity(ctx)
	if err != nil {
		return nil, fmt.Errorf("shard %s: %w", sh.Name, err)
	}
	sh.SystemID = id.system
	if sh.OwnPublication {
		tables, err := shardTables(ctx, db, spec)
		if err != nil {
			return nil, fmt.Errorf("shard %s: %w", sh.Name, err)
		}
		quoted := make([]string, len(tables))
		for i, t := range tables {
			quoted[i] = pgx.Identifier(strings.SplitN(t, ".", 2)).Sanitize()
		}
		if _, err := db.Exec(ctx, "CREATE PUBLICATION "+pgx.Identifier{sh.Publications[0]}.Sanitize()+" FOR TABLE "+strings.Join(quoted, ", ")); err != nil {
			return nil, fmt.Errorf("shard %s: create publication: %w", sh.Name, err)
		}
	}
	if err := makeSlot(ctx, db, sh); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		db.hangUp()
		own := *sh
		own.OwnSlot = false
		_, left := deprovision(undo, spec.Name, &own)
		return nil, errors.Join(fmt.Errorf("shard %s: %w", sh.Name, err), left)
	}
	return nil, nil
}

func makeSlot(ctx context.Context, db *database, sh *control.Shard) error {
	var start, timeline string
	if sh.OwnSlot {
		err := db.QueryRow(ctx, "SELECT lsn::text, substr(pg_walfile_name(lsn), 1, 8) FROM pg_create_logical_replication_slot($1, 'pgoutput', false, true)", sh.Slot).Scan(&start, &timeline)
		if err != nil {
			return fmt.Errorf("create slot %q: %w", sh.Slot, err)
		}
	} else {
		err := db.QueryRow(ctx, "SELECT confirmed_flush_lsn::text, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) FROM pg_replication_slots WHERE slot_name = $1", sh.Slot).Scan(&start, &timeline)
		if err != nil {
			return fmt.Errorf("look at slot %q: %w", sh.Slot, err)
		}
	}
	n, err := strconv.ParseInt(timeline, 16, 32)
	if err != nil {
		return fmt.Errorf("timeline %q: %w", timeline, err)
	}
	sh.Timeline = int32(n)
	sh.Start, err = pipeline.ParseLSN(start)
	return err
}

// deprovision removes what provision made, as far as it is there.
func deprovision(ctx context.Context, _ string, sh *control.Shard) (removed []string, err error) {
	if !sh.OwnSlot && !sh.OwnPublication {
		return nil, nil
	}
	db, err := open(ctx, sh.DSN)
	if err != nil {
		return nil, fmt.Errorf("shard %s: %w", sh.Name, err)
	}
	defer db.hangUp()
	if sh.OwnSlot {
		tag, err := db.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", sh.Slot)
		if err != nil {
			return nil, fmt.Errorf("shard %s: drop slot %q: %w", sh.Name, sh.Slot, err)
		}
		if tag.RowsAffected() > 0 {
			removed = append(removed, fmt.Sprintf("shard %s: slot %s", sh.Name, sh.Slot))
		}
	}
	if sh.OwnPublication {
		for _, p := range sh.Publications {
			var there bool
			if err := db.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)", p).Scan(&there); err != nil {
				return removed, fmt.Errorf("shard %s: %w", sh.Name, err)
			}
			if !there {
				continue
			}
			if _, err := db.Exec(ctx, "DROP PUBLICATION "+pgx.Identifier{p}.Sanitize()); err != nil {
				return removed, fmt.Errorf("shard %s: drop publication %q: %w", sh.Name, p, err)
			}
			removed = append(removed, fmt.Sprintf("shard %s: publication %s", sh.Name, p))
		}
	}
	return removed, nil
}

func checkShard(context.Context, *Spec, Shard) []Finding { return nil }

func unreachable(Finding) bool { return false }

// shardTables lists the tables that the subscription would read, as schema.table.
func shardTables(ctx context.Context, db *database, spec *Spec) ([]string, error) {
	sql, args := "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'cdc') ORDER BY 1", []any{}
	if len(spec.Publications) > 0 {
		sql, args = "SELECT DISTINCT schemaname || '.' || tablename FROM pg_catalog.pg_publication_tables WHERE pubname = ANY($1) ORDER BY 1", []any{spec.Publications}
	}
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	if len(spec.Publications) > 0 {
		return all, nil
	}
	return slices.DeleteFunc(all, func(t string) bool { return !chosen(spec.Tables, t) }), nil
}

func chosen(patterns []string, table string) bool {
	in := false
	for _, p := range patterns {
		exclude := strings.HasPrefix(p, "-")
		if ok, _ := path.Match(strings.TrimPrefix(p, "-"), table); ok {
			in = !exclude
		}
		if exclude && !in {
			continue
		}
	}
	return in
}
