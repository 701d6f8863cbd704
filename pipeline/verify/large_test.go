package verify

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"
)

var largeRows = flag.Int("rows", 100_000, "rows of TestLarge, over all shards")

// TestLarge: one bit is different in many rows, with a key that has ranges, with one that has none, and without a key, while
// rows change.
func TestLarge(t *testing.T) {
	const columns = "n, 'name ' || n, decode(md5(n::text), 'hex'), n * 1.01, '2020-01-01'::timestamptz + n * interval '1 s'"
	p := newPlace(t, `
		CREATE TABLE ranged (id bigint PRIMARY KEY, name text, raw bytea, amount numeric, at timestamptz);
		CREATE TABLE hashed (id bigint, name text PRIMARY KEY, raw bytea, amount numeric, at timestamptz);
		CREATE TABLE keyless (id bigint, name text, raw bytea, amount numeric, at timestamptz);
		ALTER TABLE keyless REPLICA IDENTITY FULL`)
	for _, table := range []string{"ranged", "hashed", "keyless"} {
		for i := range shards {
			p.sql(i, fmt.Sprintf("INSERT INTO %s SELECT %s FROM generate_series(%d, %d, %d) n", table, columns, i+1, *largeRows, shards), "ANALYZE "+table)
		}
		p.sql(target, fmt.Sprintf("INSERT INTO %s SELECT %s FROM generate_series(1, %d) n", table, columns, *largeRows), "ANALYZE "+table)
	}
	p.start()
	p.applied()
	conn, n := p.connect(1), 0
	stop := p.run(func(ctx context.Context) error {
		for ; ctx.Err() == nil; n++ {
			sql := fmt.Sprintf("UPDATE ranged SET amount = %[1]d WHERE id = %[2]d; UPDATE hashed SET amount = %[1]d WHERE name = 'name %[2]d'", n, 2+n*7919%(*largeRows/shards)*shards)
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
	run := func(table string) (*Report, time.Duration) {
		began := time.Now()
		r := p.verify(func(c *Config) { c.Choose = func(_, name string) bool { return name == table } })
		return r, time.Since(began)
	}
	for _, table := range []string{"ranged", "hashed", "keyless"} {
		r, took := run(table)
		if r.Verdict != Equal || r.Tables[0].RowsSource != int64(*largeRows) {
			t.Errorf("%s\n%s", r.Verdict, text(r))
		}
		p.sql(target, fmt.Sprintf("UPDATE %s SET raw = set_bit(raw, 77, 1 - get_bit(raw, 77)) WHERE id = %d", table, *largeRows/2))
		found, tookMore := run(table)
		if got := found.Tables[0]; found.Verdict != Differs || got.Differing+got.Missing < 1 || got.Differing > 1 || got.Missing > 1 {
			t.Errorf("%s\n%s", found.Verdict, text(found))
		}
		t.Logf("%d rows, %s: equal in %s; one bit found in %s; %d transactions meanwhile", *largeRows, table, took, tookMore, n)
	}
	stop()
}
