package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"shardcdc/apply"
)

// PingTurns changes how often a session that waits for its turn shows that it is there.
func PingTurns(every time.Duration) (restore func()) {
	before := turnPing
	turnPing = every
	return func() { turnPing = before }
}

// Sets changes from how many rows on, and up to how many, one statement is for many rows.
func Sets(from, upTo int) (restore func()) {
	set, copies, most := setMin, copyMin, setRowsMax
	setMin, copyMin, setRowsMax = from, from, upTo
	return func() { setMin, copyMin, setRowsMax = set, copies, most }
}

// Learned is what a session learns about what keeps the rows of a table apart, as text.
func Learned(ctx context.Context, as apply.Session, schema, name string) (string, error) {
	t, err := as.(*session).table(ctx, tableName{schema, name})
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if t.strict {
		b.WriteString("strict ")
	}
	for _, u := range t.uniques {
		if !u.exact {
			b.WriteString("(?)")
			continue
		}
		names := make([]string, len(u.columns))
		for i, c := range u.columns {
			names[i] = c.name
		}
		fmt.Fprintf(&b, "(%s)", strings.Join(names, ","))
	}
	return b.String(), nil
}
