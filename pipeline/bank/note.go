package bank

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Values that are damaged easily on the way.
var (
	titles = []string{"NULL", "''", "' '", "'NULL'", `'quote '' and \ backslash'`, "'Grüße, 世界 🐘'", `E'tab\tand\nnewline'`, "'{}'"}
	tags   = []string{"NULL", "'{}'", `ARRAY['a', NULL, '', 'b,c', '"d"']`, "ARRAY['NULL', '{}']"}
	prices = []string{"NULL", "0", "-0.0001", "9999999999999999.9999", "'NaN'", "12.5000"}
	ratios = []string{"NULL", "0.1", "'-0'::float8", "'NaN'", "'Infinity'", "'-Infinity'", "5e-324", "1.7976931348623157e308"}
	raws   = []string{"NULL", "''", `'\x00'`, `'\xdeadbeef00ff'`}
	extras = []string{"NULL", "'null'", `'{"a": [1, 2.50, null, "x\u00e9"], "": {}}'`, `'[]'`}
	flags  = []string{"NULL", "true", "false"}
	days   = []string{"NULL", "'2000-01-01'", "'infinity'", "'0044-03-15 BC'", "'9999-12-31'"}
	tooks  = []string{"NULL", "'0'", "'1 year -2 mons 3 days -04:05:06.789'", "'-00:00:00.000001'"}
)

func (t *teller) pick(from []string) string { return from[t.rand.IntN(len(from))] }

// body is NULL, short, or too large for its row.
func (t *teller) body() string {
	switch dice := t.rand.IntN(100); {
	case dice < 20:
		return "NULL"
	case dice < 90:
		return fmt.Sprintf("'body %d'", t.rand.Int64())
	default:
		var b strings.Builder
		for range 150 + t.rand.IntN(400) {
			fmt.Fprintf(&b, "%016x", t.rand.Uint64())
		}
		return "'" + b.String() + "'"
	}
}

// writeNotes is one transaction on one shard with a few inserts, updates and deletes.
func (t *teller) writeNotes(ctx context.Context) error {
	n := int64(len(t.sessions))
	shard := t.rand.Int64N(n)
	var sql []string
	var added []int64
	for range 1 + t.rand.IntN(3) {
		mine := slices.IndexFunc(t.notes, func(id int64) bool { return id%n == shard })
		switch dice := t.rand.IntN(10); {
		case mine < 0 || dice < 4:
			id := t.bank.noteIDs.Add(1)*n + shard
			added = append(added, id)
			sql = append(sql, fmt.Sprintf("INSERT INTO notes VALUES (%d, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp())",
				id, t.pick(titles), t.body(), t.pick(tags), t.pick(prices), t.pick(ratios), t.pick(raws), t.pick(extras), t.pick(flags), t.pick(days), t.pick(tooks)))
		case dice < 8:
			id := t.notes[mine]
			sql = append(sql, fmt.Sprintf("UPDATE notes SET %s WHERE id = %d", t.assignment(), id))
			t.notes = append(slices.Delete(t.notes, mine, mine+1), id) // Another one next time.
		default:
			sql = append(sql, fmt.Sprintf("DELETE FROM notes WHERE id = %d", t.notes[mine]))
			t.notes = slices.Delete(t.notes, mine, mine+1)
		}
	}
	if err := t.onePhase(ctx, int(shard), strings.Join(sql, ";\n")); err != nil {
		return err
	}
	t.notes = append(t.notes, added...)
	if len(t.notes) > remembered {
		t.notes = slices.Delete(t.notes, 0, len(t.notes)-remembered)
	}
	return nil
}

// assignment changes one column, which mostly is not the large one.
func (t *teller) assignment() string {
	switch t.rand.IntN(5) {
	case 0:
		return "title = " + t.pick(titles)
	case 1:
		return "body = " + t.body()
	case 2:
		return "price = " + t.pick(prices) + ", ratio = " + t.pick(ratios)
	case 3:
		return "extra = " + t.pick(extras) + ", raw = " + t.pick(raws)
	default:
		return "at = clock_timestamp(), tags = " + t.pick(tags)
	}
}
