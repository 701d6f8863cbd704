package dumper

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Withdraw takes tables out of a publication: those that are in it.
func Withdraw(ctx context.Context, dsn, slot, publication string, tables []TableName) error {
	return with(ctx, dsn, slot, func(conn *pgconn.PgConn) error {
		all, err := readTables(ctx, conn)
		if err != nil {
			return err
		}
		published, err := publishedOIDs(ctx, conn, []string{publication})
		if err != nil {
			return err
		}
		unwanted := map[TableName]bool{}
		for _, t := range tables {
			unwanted[t] = true
		}
		var leaving []string
		for _, t := range all {
			if unwanted[TableName{t.schema, t.name}] && published[t.oid] {
				leaving = append(leaving, "ONLY "+t.quoted())
			}
		}
		if len(leaving) == 0 {
			return nil
		}
		sql := fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s", identifier(publication), strings.Join(leaving, ", "))
		if _, err := query(ctx, conn, "SET lock_timeout = '"+publishLockTimeout+"'; "+sql); err != nil {
			return fmt.Errorf("%s: %w. Try: the same again once nobody holds a lock on the tables", sql, err)
		}
		return nil
	})
}
