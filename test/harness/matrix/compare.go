package matrix

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Difference is what a comparison found.
type Difference struct {
	Rows     int64 // of all shards
	Tables   int
	Count    int64    // rows that are missing or too many on the target; a row that is different is both
	Examples []string // the first ones
}

const (
	examplesMax  = 20
	exampleBytes = 300
)

func (d *Difference) add(format string, args ...any) {
	d.Count++
	if len(d.Examples) < examplesMax {
		d.Examples = append(d.Examples, fmt.Sprintf(format, args...))
	}
}

// Compare compares the rows of all shards together with the target's, as multisets of texts. Tables are given quoted and with their
// schemas. Nothing may change meanwhile.
func Compare(ctx context.Context, tables, shards []string, target string) (d Difference, err error) {
	c := &comparison{}
	defer func() { err = errors.Join(err, c.close()) }()
	for _, dsn := range append(slices.Clone(shards), target) {
		if err := c.connect(ctx, dsn); err != nil {
			return d, fmt.Errorf("compare: %w", err)
		}
	}
	for _, table := range tables {
		if err := c.table(ctx, table, &d); err != nil {
			return d, fmt.Errorf("compare %s: %w", table, err)
		}
		d.Tables++
	}
	return d, nil
}

type comparison struct{ conns []*pgx.Conn } // the target's is the last one

func (c *comparison) connect(ctx context.Context, dsn string) error {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return err
	}
	for name, value := range map[string]string{"TimeZone": "UTC", "extra_float_digits": "3", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "bytea_output": "hex", "search_path": "public"} {
		config.RuntimeParams[name] = value
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err == nil {
		c.conns = append(c.conns, conn)
	}
	return err
}

func (c *comparison) close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close(context.Background()))
	}
	return errors.Join(errs...)
}

// table compares one table: every row of a shard takes a row of the same text from the target.
func (c *comparison) table(ctx context.Context, table string, d *Difference) error {
	columns, only, err := describe(ctx, c.conns[0], table)
	if err != nil {
		return err
	}
	last := len(c.conns) - 1
	rows := map[string]int{}
	texts := map[string]string{}
	for i, conn := range c.conns {
		n, err := count(ctx, conn, fmt.Sprintf("SELECT md5(r::text), left(r::text, %d) FROM (SELECT %s FROM %s %s) AS r", exampleBytes, columns, only, table), func(sum, text string) {
			if i == last {
				rows[sum]--
			} else {
				rows[sum]++
			}
			if len(texts) < 100_000 {
				texts[sum] = text
			}
		})
		if err != nil {
			return err
		}
		if i != last {
			d.Rows += n
		}
	}
	for sum, n := range rows {
		if n > 0 {
			d.add("%s: the target lacks %d of %s", table, n, texts[sum])
		} else if n < 0 {
			d.add("%s: the target has %d too many of %s", table, -n, texts[sum])
		}
	}
	return nil
}

// describe tells a table's columns, and whether its own rows alone are meant: those of heirs come under their own names.
func describe(ctx context.Context, conn *pgx.Conn, table string) (columns, only string, err error) {
	err = conn.QueryRow(ctx, `SELECT coalesce(string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum), ''), CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY' END
		FROM pg_class AS c LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped WHERE c.oid = $1::regclass GROUP BY c.relkind`, table).Scan(&columns, &only)
	return columns, only, err
}

func count(ctx context.Context, conn *pgx.Conn, sql string, row func(sum, text string)) (n int64, err error) {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var sum, text string
		if err := rows.Scan(&sum, &text); err != nil {
			return 0, err
		}
		n++
		row(sum, strings.ToValidUTF8(text, "?"))
	}
	return n, rows.Err()
}
