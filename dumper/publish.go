package dumper

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// TableName is a table's name, as the catalog has it.
type TableName struct{ Schema, Name string }

// Unpublished is a table that patterns choose and no publication has.
type Unpublished struct {
	TableName
	Fault string // why it cannot join; empty: it can
}

// publishLockTimeout is how long a table is waited for: whoever wants it behind us waits as long.
const publishLockTimeout = "10s"

// FindUnpublished lists the tables of a shard that patterns choose and that none of the publications names.
func FindUnpublished(ctx context.Context, dsn, slot string, publications, patterns []string) (found []Unpublished, err error) {
	err = with(ctx, dsn, slot, func(conn *pgconn.PgConn) error {
		all, err := readTables(ctx, conn)
		if err != nil {
			return err
		}
		chosen, err := selectTables(all, patterns)
		if err != nil {
			return err
		}
		row, err := queryRow(ctx, conn, 1, "SELECT current_setting('server_version_num')")
		if err != nil {
			return err
		}
		published, err := publishedOIDs(ctx, conn, publications)
		if err != nil {
			return err
		}
		version, err := strconv.Atoi(row[0])
		if err != nil {
			return fmt.Errorf("server_version_num: %w", err)
		}
		for _, t := range chosen.tables {
			if published[t.oid] {
				continue
			}
			alone := selection{}
			alone.choose(all, map[string]bool{t.oid: true})
			found = append(found, Unpublished{TableName{t.schema, t.name}, strings.Join(alone.identityFaults(version), "; ")})
		}
		return nil
	})
	return found, err
}

func publishedOIDs(ctx context.Context, conn *pgconn.PgConn, publications []string) (map[string]bool, error) {
	rows, err := query(ctx, conn, "SELECT r.prrelid FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid WHERE p.pubname IN ("+list(publications, literal)+")")
	if err != nil {
		return nil, fmt.Errorf("list what is published: %w", err)
	}
	oids := map[string]bool{}
	for _, r := range rows {
		oids[r[0]] = true
	}
	return oids, nil
}

// Publish adds tables to a publication: those that the shard has, and that are not in it.
func Publish(ctx context.Context, dsn, slot, publication string, tables []TableName) error {
	return alterPublication(ctx, dsn, slot, publication, "ADD", tables, "let nobody hold a lock on the tables, and the rights to publish them")
}

// Withdraw takes tables out of a publication: those that are in it.
func Withdraw(ctx context.Context, dsn, slot, publication string, tables []TableName) error {
	return alterPublication(ctx, dsn, slot, publication, "DROP", tables, "the same again once nobody holds a lock on the tables")
}

// alterPublication lets tables join (ADD) or leave (DROP). It may be repeated: what has joined or left already stays so.
func alterPublication(ctx context.Context, dsn, slot, publication, verb string, tables []TableName, try string) error {
	return with(ctx, dsn, slot, func(conn *pgconn.PgConn) error {
		all, err := readTables(ctx, conn)
		if err != nil {
			return err
		}
		published, err := publishedOIDs(ctx, conn, []string{publication})
		if err != nil {
			return err
		}
		meant := map[TableName]bool{}
		for _, t := range tables {
			meant[t] = true
		}
		var moving []string
		for _, t := range all {
			if meant[TableName{t.schema, t.name}] && published[t.oid] == (verb == "DROP") {
				moving = append(moving, "ONLY "+t.quoted())
			}
		}
		if len(moving) == 0 {
			return nil
		}
		sql := fmt.Sprintf("ALTER PUBLICATION %s %s TABLE %s", identifier(publication), verb, strings.Join(moving, ", "))
		if _, err := query(ctx, conn, "SET lock_timeout = '"+publishLockTimeout+"'; "+sql); err != nil {
			return fmt.Errorf("%s: %w. Try: %s", sql, err, try)
		}
		return nil
	})
}

// keysSQL finds the columns that name a row and are sent with each of its changes: those of the replica identity's index; of
// another identity, those of any unique index.
const keysSQL = `SELECT n.nspname, c.relname, coalesce((
  SELECT (SELECT pg_catalog.json_agg(a.attname ORDER BY k) FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) AS k
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[k])
  FROM pg_catalog.pg_index AS i
  WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
    AND CASE c.relreplident
      WHEN 'i' THEN i.indisreplident
      WHEN 'd' THEN i.indisprimary OR NOT EXISTS (SELECT FROM pg_catalog.pg_index AS p WHERE p.indrelid = c.oid AND p.indisprimary)
      ELSE true END
    AND NOT EXISTS (SELECT FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) AS k JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[k]
      WHERE NOT a.attnotnull OR a.attgenerated <> '')
  ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1), '[]')
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND (n.nspname, c.relname) IN (VALUES %s)`

// FindKeys returns for each of the tables that the shard has the columns by which a row is found; none: the table has no
// key, and its rows are copied in one piece. caller is what the connection is shown as on the server.
func FindKeys(ctx context.Context, dsn, caller string, tables []TableName) (keys map[TableName][]string, err error) {
	keys = map[TableName][]string{}
	if len(tables) == 0 {
		return keys, nil
	}
	err = with(ctx, dsn, caller, func(conn *pgconn.PgConn) error {
		names := make([]string, len(tables))
		for i, t := range tables {
			names[i] = "(" + literal(t.Schema) + ", " + literal(t.Name) + ")"
		}
		rows, err := query(ctx, conn, fmt.Sprintf(keysSQL, strings.Join(names, ", ")))
		if err != nil {
			return fmt.Errorf("look at the tables' keys: %w", err)
		}
		for _, r := range rows {
			var columns []string
			if err := json.Unmarshal([]byte(r[2]), &columns); err != nil {
				return fmt.Errorf("look at the key of %s.%s: %w", r[0], r[1], err)
			}
			keys[TableName{r[0], r[1]}] = columns
		}
		return nil
	})
	return keys, err
}

func with(ctx context.Context, dsn, slot string, do func(*pgconn.PgConn) error) error {
	conn, err := dial(ctx, dsn, slot, false)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	return do(conn)
}
