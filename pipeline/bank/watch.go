package bank

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/pause"
)

// Times between two looks at the target. A snapshot reads all of it, so its own time counts too.
const (
	markerEvery   = 4 * time.Millisecond
	snapshotEvery = 100 * time.Millisecond
)

// Watcher looks at the target while it changes.
type Watcher struct {
	bank      *Bank
	target    string
	snapshots atomic.Int64
	last      snapshot // owned by the goroutine of snapshots
}

// Watch makes a watcher of a target; Run starts it.
func (b *Bank) Watch(target string) *Watcher { return &Watcher{bank: b, target: target} }

// Snapshots is how many snapshots obeyed the laws.
func (w *Watcher) Snapshots() int64 { return w.snapshots.Load() }

// A Violation is a snapshot of the target that breaks a law.
type Violation struct{ What []string }

func (v *Violation) Error() string {
	return "a snapshot of the target breaks the bank's laws: " + strings.Join(v.What, "; ")
}

// Run looks until ctx ends; then it returns nil. A Violation ends it earlier. A target that cannot be reached is asked
// again.
func (w *Watcher) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.repeat(ctx, markerEvery, w.look) })
	group.Go(func() error { return w.repeat(ctx, snapshotEvery, w.snapshot) })
	return group.Wait()
}

// Last waits until the last marker that was acknowledged has been seen, and a snapshot was taken after that. The bank's Run
// has ended, and the watcher's has not.
func (w *Watcher) Last(ctx context.Context) error {
	for w.bank.meter.Seen() < w.bank.stats.markers.Load() {
		if pause.For(ctx, markerEvery) != nil {
			return fmt.Errorf("marker %d was not seen on the target, only %d: %w", w.bank.stats.markers.Load(), w.bank.meter.Seen(), context.Cause(ctx))
		}
	}
	for before := w.Snapshots(); w.Snapshots() < before+2; {
		if pause.For(ctx, markerEvery) != nil {
			return fmt.Errorf("no snapshot of the target at the end: %w", context.Cause(ctx))
		}
	}
	return nil
}

// repeat calls fn with a session of its own until ctx ends.
func (w *Watcher) repeat(ctx context.Context, every time.Duration, fn func(context.Context, *session) error) error {
	s := &session{name: "target", dsn: w.target}
	defer s.close()
	for {
		began := time.Now()
		if err := fn(ctx, s); err != nil && !broken(err) && !gaveWay(err) {
			return err
		}
		if pause.For(ctx, max(every, time.Since(began))) != nil {
			return nil
		}
	}
}

// look notes the highest marker.
func (w *Watcher) look(ctx context.Context, s *session) error {
	results, err := s.exec(ctx, "SELECT coalesce(max(id), 0) FROM markers")
	if err != nil {
		return err
	}
	n, err := numbers(results[0])
	if err != nil {
		return err
	}
	w.bank.meter.sawUpTo(n[0], time.Now())
	return nil
}

// A snapshot is what one look at the whole target says.
type snapshot struct {
	accounts, money        int64
	half                   int64 // transfers with a side missing, money made of nothing, or two versions
	markers, marker, whole int64 // rows, highest number, numbers that all shards wrote
	journal                int64
}

const snapshotSQL = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT (SELECT count(*) FROM accounts), (SELECT coalesce(sum(balance), 0) FROM accounts),
	(SELECT count(*) FROM (SELECT FROM history GROUP BY transfer HAVING ` + halfSQL + `) AS half),
	count(*), coalesce(max(id), 0), count(DISTINCT id), (SELECT count(*) FROM journal) FROM markers;
` + exampleSQL + `;
COMMIT`

const halfSQL = `count(*) <> min(sides) OR min(sides) <> max(sides) OR min(version) <> max(version) OR sum(amount) <> 0`

const exampleSQL = `SELECT format('transfer %s: %s of %s sides, versions %s to %s, sum %s', transfer, count(*), max(sides), min(version), max(version), sum(amount))
	FROM history GROUP BY transfer HAVING ` + halfSQL + ` ORDER BY transfer LIMIT 3`

// snapshot looks once. Its error is a Violation, or about the connection.
func (w *Watcher) snapshot(ctx context.Context, s *session) error {
	results, err := s.exec(ctx, snapshotSQL)
	if err != nil {
		return err
	}
	n, err := numbers(results[1])
	if err != nil {
		return err
	}
	now := snapshot{accounts: n[0], money: n[1], half: n[2], markers: n[3], marker: n[4], whole: n[5], journal: n[6]}
	what := w.bank.faults(w.last, now)
	for _, row := range results[2].Rows {
		what = append(what, string(row[0]))
	}
	if len(what) > 0 {
		return &Violation{What: what}
	}
	w.last = now
	w.snapshots.Add(1)
	return nil
}

// faults says which laws the snapshot breaks, given the one before.
func (b *Bank) faults(before, now snapshot) (what []string) {
	add := func(format string, args ...any) { what = append(what, fmt.Sprintf(format, args...)) }
	if now.accounts != 0 && now.accounts != int64(b.conf.Accounts) {
		add("%d accounts, want none or %d", now.accounts, b.conf.Accounts)
	}
	if want := now.accounts * b.conf.Opening; now.money != want {
		add("the accounts hold %d together, want %d", now.money, want)
	}
	if now.half > 0 {
		add("%d transfers are not whole", now.half)
	}
	if now.whole != now.marker {
		add("%d markers up to number %d: there is a gap", now.whole, now.marker)
	}
	if want := now.whole * int64(len(b.conf.Shards)); now.markers != want {
		add("%d rows of %d markers, want %d: one shows half", now.markers, now.whole, want)
	}
	if now.accounts < before.accounts || now.marker < before.marker || now.journal < before.journal {
		add("what was seen is gone: %d accounts, marker %d, %d journal rows after %d, %d, %d",
			now.accounts, now.marker, now.journal, before.accounts, before.marker, before.journal)
	}
	return what
}

// numbers reads a result of one row of integers.
func numbers(r *pgconn.Result) ([]int64, error) {
	if len(r.Rows) != 1 {
		return nil, errors.New("want one row")
	}
	out := make([]int64, len(r.Rows[0]))
	for i, v := range r.Rows[0] {
		n, err := strconv.ParseInt(string(v), 10, 64)
		if err != nil {
			return nil, err
		}
		out[i] = n
	}
	return out, nil
}
