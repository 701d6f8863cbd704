package main

import (
	"fmt"

	"shardcdc/output/sql"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/reading"
)

// newStatements makes the shower of statements for a database. The session's settings come first.
func newStatements(o format.SQLOptions, sub *control.Subscription) (shower, error) {
	o = format.Format{Name: format.SQL, SQL: o}.WithDefaults().SQL
	switch sub.Format {
	case format.JSON:
		return nil, fmt.Errorf("the stream of %s is JSON, of which no statements are made. Try: --format json, or a subscription with --format sql", sub.Name)
	case format.SQL:
		have := sub.Output().WithDefaults().SQL
		if o != have && o != (format.SQLOptions{Dialect: format.PostgreSQL}) {
			return nil, fmt.Errorf("the stream of %s is SQL already, with choices of its own. Try: --format sql without --sql-…", sub.Name)
		}
		o = have
	}
	encoder := sql.New(sql.Config{Shards: shardNames(sub), Options: o, Truncate: sub.Truncate})
	front := sql.Settings(o.Dialect)
	return func(t *reading.Transaction) ([]byte, error) {
		text := []byte(front)
		front = ""
		switch {
		case t.SQL != nil:
			return append(text, t.SQL...), nil
		case t.Rows == nil:
			return nil, fmt.Errorf("csn %s: %d bytes are too large to be shown as statements. Try: a subscription with --format sql, whose stream has them in parts", t.CSN, t.Bytes)
		}
		payloads, err := encoder.Encode(&pipeline.Batch{Previous: t.Previous, Transactions: []*pipeline.Transaction{t.Rows}})
		if err != nil {
			return nil, err
		}
		return append(text, payloads[0].Data...), nil
	}, nil
}
