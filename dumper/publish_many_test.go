package dumper_test

import (
	"context"
	"fmt"
	"testing"

	"shardcdc/dumper"
)

// TestKeysOfManyTables: a list of names that is long is no deep expression.
func TestKeysOfManyTables(t *testing.T) {
	s := newShard(t)
	tables := []dumper.TableName{{Schema: "public", Name: "t"}}
	for i := range 30_000 {
		tables = append(tables, dumper.TableName{Schema: "public", Name: fmt.Sprint("none", i)})
	}
	keys, err := dumper.FindKeys(context.Background(), s.src.DSN, "test", tables)
	if err != nil || len(keys) != 1 || len(keys[tables[0]]) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
}
