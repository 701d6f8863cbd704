package copier

import (
	"context"
	"fmt"
	"strings"
	"time"

	"shardcdc/pipeline/pause"
)

// writersSQL lists the transactions of this database that have a number, each by the lock on it that it holds until all see
// that it has ended. That is later than its commit record is in the WAL: so whoever read that record and does not find the
// lock, sees what the transaction wrote. One that has begun and has no number has not written anything.
const writersSQL = `
SELECT l.transactionid, CASE WHEN p.gid IS NULL
	THEN pg_catalog.concat_ws(' ', 'transaction', l.transactionid, 'of pid', l.pid, a.usename, nullif(a.application_name, ''), 'since ' || pg_catalog.date_trunc('second', a.xact_start))
	ELSE pg_catalog.concat_ws(' ', 'prepared transaction', pg_catalog.quote_literal(p.gid), 'of', p.owner, 'since ' || pg_catalog.date_trunc('second', p.prepared)) END
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = l.transactionid
WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
	AND coalesce(a.datname, p.database, pg_catalog.current_database()) = pg_catalog.current_database()%s
ORDER BY coalesce(a.xact_start, p.prepared)`

// Pauses between two looks at the transactions that are waited for: the server pays for each look.
const (
	lookAgainMin = 100 * time.Millisecond
	lookAgainMax = time.Second
)

// namedMax is how many transactions a report names.
const namedMax = 3

// AwaitWriters returns when every transaction of the database that has written anything when it is called has ended; prepared
// ones, too. While it waits, it reports for whom, whenever that changes. What such a transaction committed is visible then.
func (s *Session) AwaitWriters(ctx context.Context, report func(who string)) error {
	return s.fail("wait for the transactions that were open when the copy began", nil, s.awaitWriters(ctx, report))
}

func (s *Session) awaitWriters(ctx context.Context, report func(who string)) error {
	only, said := "", ""
	for wait := lookAgainMin; ; wait = min(2*wait, lookAgainMax) {
		results, err := s.query(ctx, fmt.Sprintf(writersSQL, only))
		if err != nil {
			return err
		}
		var xids, open []string
		for _, row := range results[0].Rows {
			xids, open = append(xids, string(row[0])), append(open, string(row[1]))
		}
		if len(open) == 0 {
			return nil
		}
		who := strings.Join(open[:min(len(open), namedMax)], ", ")
		if len(open) > namedMax {
			who += fmt.Sprintf(", and %d more", len(open)-namedMax)
		}
		if who != said && report != nil {
			report(who)
		}
		said, only = who, " AND l.transactionid = ANY ('{"+strings.Join(xids, ",")+"}'::xid[])"
		if err := pause.For(ctx, wait); err != nil {
			return err
		}
	}
}
