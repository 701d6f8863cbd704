// Package matrix is a fixture: tables of every built-in type and of every shape that PostgreSQL has, with the values that
// break things, spread over shards. What is there after n rounds depends on n alone, so a failure can be repeated.
//
//	m, err := matrix.New(ctx, dsn)               // what this server can do
//	m.DDL(matrix.Source), m.DDL(matrix.Target)   // on every shard; on the target
//	m.Fill(i, n)                                 // rows of shard i of n
//	m.Change(i, n, round)                        // inserts, updates, deletes, changes of keys
//	m.Compare(ctx, shards, target)               // row by row, by texts that the servers make; knows nothing of the product
//
// Rows of different shards have different keys. Tables:
//
//	types          a column per type; each row has other values, NULL among them. A key of its own
//	arrays         a column per type: one- and two-dimensional arrays with NULLs
//	types_full     the same columns as types, no key: every row twice, so that exactly one of two equal rows must be hit
//	key_…          one per type that can be a key: the type itself is the first column of the key
//	and shapes     see shapes.go
package matrix
