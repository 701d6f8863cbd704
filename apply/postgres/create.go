package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/pgtype"
)

// Tables that are missing are made (Config.CreateTables) from what the stream says of them, inside of the target transaction that
// needs them first: a group whose table is missing runs alone, because Touches finds no plan for it. What one shard's table looks
// like decides; columns that another shard has besides are missing as they would be in any table.
//
// A statement of the shards that creates a table (DDL, captured) comes before its rows, so that table is made by the statement, with
// all that the stream does not know.

// ensure makes the table of a relation, if it is missing.
func (s *session) ensure(ctx context.Context, shard pipeline.ShardID, r *pipeline.Relation) error {
	name := s.targetName(r)
	if view := s.ddl.see(shard, name); !s.cfg.CreateTables || view.gone || view.name != name || s.tables[name] != nil {
		return nil // under another name since it was renamed: a table that is missing there was dropped by somebody
	}
	if there, err := s.exists(ctx, name); err != nil || there {
		return err
	}
	made := *r
	made.Namespace, made.Name = name.schema, name.name
	sql, err := pgtype.AppendCreateTable(nil, &made)
	if err != nil {
		return &apply.Blocked{Table: name.String(), Problem: "cannot be made on the target", Err: err, Try: "create it there; it goes on by itself"}
	}
	if err := s.ensureSchema(ctx, &made); err != nil {
		return err
	}
	return s.uncreated(name, s.exec(ctx, string(sql)))
}

func (s *session) exists(ctx context.Context, name tableName) (bool, error) {
	rows, err := s.query(ctx, `SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2`, name.schema, name.name)
	if err != nil {
		return false, classify(fmt.Errorf("look for %s: %w", name, err), nil)
	}
	return len(rows) > 0, nil
}

func (s *session) ensureSchema(ctx context.Context, r *pipeline.Relation) error {
	rows, err := s.query(ctx, "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1", r.Namespace)
	if err != nil {
		return classify(fmt.Errorf("look for schema %s: %w", quote(r.Namespace), err), nil)
	}
	if len(rows) > 0 {
		return nil
	}
	return s.uncreated(tableName{r.Namespace, r.Name}, s.exec(ctx, string(pgtype.AppendCreateSchema(nil, r))))
}

// uncreated says why a table was not made.
func (s *session) uncreated(name tableName, err error) error {
	b := &apply.Blocked{Table: name.String(), Problem: "cannot be made on the target", Try: "create it there; it goes on by itself"}
	var pg *pgconn.PgError
	switch {
	case !errors.As(err, &pg):
	case pg.Code == "42704": // undefined object
		b.Try = "create the type there as it is on a shard (CREATE TYPE, CREATE EXTENSION; pg_dump --schema-only shows it), or create the table; it goes on by itself"
	case pg.Code == "42501": // insufficient privilege
		b.Try = fmt.Sprintf("GRANT CREATE ON DATABASE … TO %[1]s, and CREATE ON SCHEMA %[2]s if that is there; it goes on by itself", quote(s.user()), quote(name.schema))
	}
	return classify(err, b)
}
