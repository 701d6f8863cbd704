package bank

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// Difference is what a comparison found.
type Difference struct {
	Rows     int64    // compared: rows of all shards
	Count    int64    // rows that are missing, too many or different on the target
	Examples []string // the first ones
}

const examplesMax = 10

func (d *Difference) add(format string, args ...any) {
	d.Count++
	if len(d.Examples) < examplesMax {
		d.Examples = append(d.Examples, fmt.Sprintf(format, args...))
	}
}

// orders gives each table's rows a number to sort by; rows of equal number are sorted by their text.
var orders = map[string]string{"accounts": "id", "history": "id", "journal": "entry", "markers": "id", "notes": "id"}

// Compare compares the rows of all shards together with the target's, all columns as text. Nothing may change meanwhile.
func Compare(ctx context.Context, shards []string, target string) (Difference, error) {
	var d Difference
	for _, table := range Tables {
		if err := compareTable(ctx, table, shards, target, &d); err != nil {
			return d, fmt.Errorf("compare table %s: %w", table, err)
		}
	}
	return d, nil
}

func compareTable(ctx context.Context, table string, shards []string, target string, d *Difference) (err error) {
	var all []*cursor
	defer func() {
		for _, c := range all {
			err = errors.Join(err, c.close())
		}
	}()
	for i, dsn := range append(append([]string{}, shards...), target) {
		name := "shard " + strconv.Itoa(i)
		if i == len(shards) {
			name = "the target"
		}
		c, err := openCursor(ctx, name, dsn, table)
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	return merge(table, all[:len(shards)], all[len(shards)], d)
}

// merge goes through the shards' rows in one order, beside the target's.
func merge(table string, shards []*cursor, target *cursor, d *Difference) error {
	for {
		source := lowest(shards)
		order := 0
		switch {
		case source == nil && target.row == nil:
			return nil
		case source == nil:
			order = 1
		case target.row == nil:
			order = -1
		default:
			order = source.row.compare(target.row)
		}
		switch {
		case order == 0:
			d.Rows++
		case order < 0 && target.row != nil && source.row.key == target.row.key:
			d.Rows++
			d.add("%s %d differs: %s has %s, the target has %s", table, source.row.key, source.name, source.row.text, target.row.text)
			order = 0
		case order > 0 && source != nil && source.row.key == target.row.key:
			d.Rows++
			d.add("%s %d differs: %s has %s, the target has %s", table, source.row.key, source.name, source.row.text, target.row.text)
			order = 0
		case order < 0:
			d.Rows++
			d.add("%s %d is missing on the target: %s has %s", table, source.row.key, source.name, source.row.text)
		default:
			d.add("%s %d is too many on the target: %s", table, target.row.key, target.row.text)
		}
		if order <= 0 {
			if err := source.next(); err != nil {
				return err
			}
		}
		if order >= 0 {
			if err := target.next(); err != nil {
				return err
			}
		}
	}
}

func lowest(cursors []*cursor) *cursor {
	var low *cursor
	for _, c := range cursors {
		if c.row != nil && (low == nil || c.row.compare(low.row) < 0) {
			low = c
		}
	}
	return low
}

type comparedRow struct {
	key  int64
	text []byte
}

func (r *comparedRow) compare(o *comparedRow) int {
	switch {
	case r.key < o.key:
		return -1
	case r.key > o.key:
		return 1
	}
	return bytes.Compare(r.text, o.text)
}

// A cursor reads one table of one database in order.
type cursor struct {
	name string
	conn *pgx.Conn
	rows pgx.Rows
	row  *comparedRow // nil: at the end
}

func openCursor(ctx context.Context, name, dsn, table string) (*cursor, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	for setting, value := range map[string]string{"TimeZone": "UTC", "extra_float_digits": "3", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "bytea_output": "hex"} {
		config.RuntimeParams[setting] = value
	}
	c := &cursor{name: name}
	if c.conn, err = pgx.ConnectConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	sql := fmt.Sprintf(`SELECT %s, t::text FROM %s AS t ORDER BY 1, t::text COLLATE "C"`, orders[table], table)
	if c.rows, err = c.conn.Query(ctx, sql); err == nil {
		err = c.next()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), c.close())
	}
	return c, nil
}

// next moves on, to row nil at the end.
func (c *cursor) next() error {
	c.row = nil
	if !c.rows.Next() {
		return c.rows.Err()
	}
	row := &comparedRow{}
	if err := c.rows.Scan(&row.key, &row.text); err != nil {
		return err
	}
	c.row = row
	return nil
}

func (c *cursor) close() error {
	if c.rows != nil {
		c.rows.Close()
	}
	return c.conn.Close(context.Background())
}
