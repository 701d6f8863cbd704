package copier

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
)

// ErrThere is wrapped by Absent's error when there is something to read.
var ErrThere = errors.New("the table is there")

// noColumn is what a table has that is not there: so no change of it fits, and a chunk behind which the table appeared cannot
// be folded.
var noColumn = []pipeline.Column{{}}

// Absent proves that a table is not there, or not published, by a snapshot: the chunk has no rows. It is what Whole reads where
// a table without a key has none. A table that goes behind the snapshot may already be missing in it: a publication is asked for its
// tables as they are, not as the snapshot shows them. It is gone where the mark of the chunk stands, so this is as true.
// ErrThere: the table has come.
func (s *Session) Absent(ctx context.Context, id, schema, name string, taken Taken) (result *Result, err error) {
	t := &Table{Table: fold.Table{Schema: schema, Name: name}}
	err = s.transaction(ctx, "SELECT pg_catalog.pg_current_snapshot()", func(results []*pgconn.Result) error {
		snapshot, err := fold.ParseSnapshot(string(results[len(results)-1].Rows[0][0]))
		if err != nil {
			return err
		}
		if taken != nil {
			taken(snapshot)
		}
		found, err := s.catalog(ctx, t.condition())
		if err == nil && len(found) > 0 {
			err = ErrThere
		}
		result = &Result{End: true, Chunk: fold.Chunk{
			ID: id, Table: t.Table, Snapshot: snapshot,
			Relation: &pipeline.Relation{Namespace: schema, Name: name, Columns: noColumn},
		}}
		return err
	})
	if err != nil {
		return nil, s.fail("find out that it is not there", t, err)
	}
	return result, nil
}

// condition is what catalog finds the table by.
func (t *Table) condition() string {
	return fmt.Sprintf("n.nspname = %s AND c.relname = %s", literal(t.Schema), literal(t.Name))
}
