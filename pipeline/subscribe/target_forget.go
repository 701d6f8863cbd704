package subscribe

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline/control"
)

// lockProgressSQL: the advisory lock is the one under which apply workers make these tables, so none is dropped between
// another subscription's worker making it and writing its row.
const lockProgressSQL = "SET LOCAL lock_timeout = '10s'; SELECT pg_advisory_xact_lock(hashtextextended('cdc.progress', 0))"

// madeTable is one of them, as it is there.
type madeTable struct {
	name  string
	owned bool  // we may drop it
	mine  int64 // rows of the subscription
	rows  int64
}

func (m *madeTable) quoted() string { return pgx.Identifier{"cdc", m.name}.Sanitize() }

// made lists the tables that are there.
func made(ctx context.Context, tx pgx.Tx, subscription string) (there []madeTable, err error) {
	rows, err := tx.Query(ctx, `SELECT c.relname::text, pg_catalog.pg_has_role(c.relowner, 'USAGE')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'cdc' AND c.relname = ANY ($1) AND c.relkind = 'r'`, targetTablesMade)
	if err != nil {
		return nil, err
	}
	there, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m madeTable, err error) { return m, row.Scan(&m.name, &m.owned) })
	if err != nil {
		return nil, err
	}
	for i := range there {
		m := &there[i]
		if err := tx.QueryRow(ctx, "SELECT count(*) FILTER (WHERE subscription = $1), count(*) FROM "+m.quoted(), subscription).Scan(&m.mine, &m.rows); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(there, func(a, b madeTable) int {
		return slices.Index(targetTablesMade, a.name) - slices.Index(targetTablesMade, b.name)
	})
	return there, nil
}

// forgotten says what forgetting removes and keeps.
type forgotten struct{ removed, kept []string }

// forget plans what becomes of the tables: rows of the subscription go, but for what was skipped unless everything goes.
// Tables without rows go when nobody's progress is left.
func forget(there []madeTable, about, subscription string, everything bool) (f forgotten, rows, drop []madeTable) {
	last := !slices.ContainsFunc(there, func(m madeTable) bool { return m.name == "progress" && m.rows > m.mine })
	for _, m := range there {
		switch {
		case m.mine > 0 && m.name == skippedTable && !everything:
			f.kept = append(f.kept, fmt.Sprintf("%s: cdc.skipped, rows of %s: %d", about, subscription, m.mine))
			continue
		case m.mine > 0:
			rows = append(rows, m)
			what := fmt.Sprintf("%s: cdc.%s, rows of %s: %d", about, m.name, subscription, m.mine)
			if m.name == "progress" {
				what = about + ": progress of " + subscription
			}
			f.removed = append(f.removed, what)
		}
		if last && m.owned && m.rows == m.mine {
			drop = append(drop, m)
		}
	}
	return f, rows, drop
}

// forgetProgress deletes what a target holds about the subscription, and what nobody needs after that.
func forgetProgress(ctx context.Context, t *control.Target, subscription string, everything bool) (removed []string, err error) {
	if isMySQL(t) {
		return forgetMySQL(ctx, t, subscription, everything)
	}
	if isFolder(t) {
		return nil, nil // files stay, with what they know of their progress
	}
	about := "target " + t.Name
	db, err := open(ctx, t.DSN)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", about, err)
	}
	defer db.hangUp()
	err = pgx.BeginFunc(ctx, db.Conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockProgressSQL, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		there, err := made(ctx, tx, subscription)
		if err != nil || len(there) == 0 {
			return err
		}
		f, rows, drop := forget(there, about, subscription, everything)
		for _, m := range rows {
			if _, err := tx.Exec(ctx, "DELETE FROM "+m.quoted()+" WHERE subscription = $1", subscription); err != nil {
				return err
			}
		}
		for _, m := range drop {
			if err := dropEmpty(ctx, tx, m.quoted()); err != nil {
				return err
			}
		}
		gone, err := dropSchema(ctx, tx)
		if gone {
			f.removed = append(f.removed, about+": schema cdc")
		}
		removed = f.removed
		return err
	})
	if err == nil {
		return removed, nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return nil, fmt.Errorf("%s: remove the progress of %s: %w. Try: GRANT SELECT, DELETE ON ALL TABLES IN SCHEMA cdc TO %s", about, subscription, err, pgx.Identifier{db.Config().User}.Sanitize())
	}
	return nil, fmt.Errorf("%s: remove the progress of %s: %w", about, subscription, err)
}

// dropEmpty drops a table unless somebody wrote a row meanwhile.
func dropEmpty(ctx context.Context, tx pgx.Tx, quoted string) error {
	if _, err := tx.Exec(ctx, "LOCK TABLE "+quoted+" IN ACCESS EXCLUSIVE MODE"); err != nil {
		return err
	}
	var filled bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+quoted+")").Scan(&filled); err != nil || filled {
		return err
	}
	_, err := tx.Exec(ctx, "DROP TABLE "+quoted)
	return err
}

// dropSchema drops the schema cdc when it is ours and nothing is in it.
func dropSchema(ctx context.Context, tx pgx.Tx) (gone bool, err error) {
	err = tx.QueryRow(ctx, `SELECT pg_catalog.pg_has_role(n.nspowner, 'USAGE')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND refobjid = n.oid)
FROM pg_catalog.pg_namespace n WHERE n.nspname = 'cdc'`).Scan(&gone)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil || !gone {
		return false, err
	}
	_, err = tx.Exec(ctx, "DROP SCHEMA cdc RESTRICT")
	return err == nil, err
}
