package dumper

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline"
)

// probeSQL reads the clock and then the flushed position. Two statements, because only statements have an order: of
// the columns of one SELECT, PostgreSQL does not promise which is evaluated first. One round trip all the same.
const probeSQL = `SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint; SELECT pg_catalog.pg_current_wal_flush_lsn()`

// nudgeSQL writes about 100 bytes of WAL and flushes them.
const nudgeSQL = `SELECT pg_catalog.pg_logical_emit_message(true, 'cdc.probe', '')`

// epochMicros is 2000-01-01 in microseconds of the Unix epoch.
const epochMicros = 946684800 * 1_000_000

// prober is one SQL connection and what it does. A probe that a broken connection leaves open waits for the next one.
func (d *Dumper) prober(ctx context.Context) (worked bool, err error) {
	conn, err := dial(ctx, d.src.DSN, d.src.Slot, false)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "57P03" {
		d.letGo() // a server that streams and takes no connections is shutting down
	}
	if err != nil {
		return false, err
	}
	defer hangUp(conn)
	p := &d.probing
	p.d, p.conn = d, conn
	if err := p.verify(ctx); err != nil {
		return false, err
	}
	if p.target != 0 {
		p.rest(time.Now()) // the last connection broke while this was awaited
	}
	return true, p.serve(ctx)
}

// probing is owned by the prober's goroutine. It outlives the connection.
type probing struct {
	d         *Dumper
	conn      *pgconn.PgConn
	lastProbe time.Time
	lastPoll  time.Time

	// A probed position that the stream has not reached. Below it the stream may stand still for seconds: the server
	// flushes whole pages, so the position may lie inside a record of a transaction that is still open.
	target  pipeline.LSN // 0: none
	mark    pipeline.LSN // how far the stream was when the wait began
	replies uint64       // keepalives received by then
	checkAt time.Time
}

// verify makes sure that probes are asked of the server that the stream comes from.
func (p *probing) verify(ctx context.Context) error {
	row, err := p.row(ctx, 2, `SELECT system_identifier, CASE WHEN pg_catalog.pg_is_in_recovery() THEN ''
  ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()), 1, 8) END FROM pg_catalog.pg_control_system()`)
	if err != nil {
		return fmt.Errorf("identify the server that is probed: %w", err)
	}
	src := &p.d.src
	if src.SystemID != "" && row[0] != src.SystemID {
		return &FatalError{
			What: fmt.Sprintf("another server answers probes: its system identifier is %s, the subscription was made for %s", row[0], src.SystemID),
			Try:  "correct the DSN; for a new server, cdcctl drop-subscription and create-subscription",
		}
	}
	if row[1] == "" {
		return fmt.Errorf("the server is a standby in recovery; its promotion is awaited: %w", errWait)
	}
	timeline, err := strconv.ParseInt(row[1], 16, 64)
	if err != nil {
		return protocolf("timeline %q", row[1])
	}
	if src.Timeline != 0 && int32(timeline) != src.Timeline {
		return &FatalError{
			What: fmt.Sprintf("the server is on timeline %d, the subscription on %d: it was promoted or restored, and its WAL may lack what was read before", timeline, src.Timeline),
			Try:  "cdcctl drop-subscription and create-subscription, which fills the target again",
		}
	}
	return nil
}

// serve answers probes, looks after a stream that stands still, and looks at the slot now and then.
func (p *probing) serve(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.d.wakeProber:
		case <-timer.C:
		}
		wait, err := p.step(ctx, time.Now())
		if err != nil {
			return err
		}
		timer.Reset(wait)
	}
}

// step does what is due and returns how long to wait.
func (p *probing) step(ctx context.Context, now time.Time) (time.Duration, error) {
	opts := &p.d.opts
	wait := opts.PollInterval
	if n := p.d.pending(); n > 0 {
		if rest := opts.ProbeInterval - now.Sub(p.lastProbe); rest > 0 {
			wait = min(wait, rest)
		} else if err := p.probe(ctx, n); err != nil {
			return 0, err
		}
	}
	if p.target != 0 {
		if err := p.watch(ctx, time.Now()); err != nil {
			return 0, err
		}
		if p.target != 0 {
			wait = min(wait, max(0, time.Until(p.checkAt)))
		}
	}
	interval := opts.PollInterval
	if p.d.suspicious() {
		interval = min(interval, suspicionInterval)
	}
	if rest := interval - now.Sub(p.lastPoll); rest > 0 {
		return min(wait, rest), nil
	}
	p.d.calm()
	p.lastPoll = now
	return wait, p.poll(ctx)
}

// suspicionInterval is the shortest time between two looks at a server that may be shutting down.
const suspicionInterval = 100 * time.Millisecond

func (d *Dumper) suspicious() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.suspicion
}

func (d *Dumper) calm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.suspicion = false
}

// pending counts the probes that wait.
func (d *Dumper) pending() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.probes)
}

// probe answers the first n probes that wait with one reading, which is later than all of them.
func (p *probing) probe(ctx context.Context, n int) error {
	sent := time.Now()
	clock, flushed, err := p.ask(ctx)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	back := time.Now()
	p.lastProbe = back
	d := p.d
	d.mu.Lock()
	ids := d.probes[:n:n]
	d.probes = append([]uint64(nil), d.probes[n:]...)
	d.status.measured(clock, sent, back)
	d.status.Flushed = max(d.status.Flushed, flushed)
	d.status.Probes += uint64(n)
	behind := d.status.Received < flushed
	d.mu.Unlock()
	for _, id := range ids {
		if err := d.sink.Probed(d.src.Shard, id, clock, flushed); err != nil {
			if ctx.Err() != nil {
				return err
			}
			return &FatalError{What: fmt.Sprintf("the answer to probe %d was not taken", id), Err: err}
		}
	}
	if behind {
		p.expect(flushed, back)
	}
	return nil
}

// ask does the round trip.
func (p *probing) ask(ctx context.Context) (clock pipeline.Timestamp, flushed pipeline.LSN, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.d.opts.SilenceMax)
	defer cancel()
	results, err := p.conn.Exec(ctx, probeSQL).ReadAll()
	if err != nil {
		return 0, 0, err
	}
	if len(results) != 2 || len(results[0].Rows) != 1 || len(results[1].Rows) != 1 {
		return 0, 0, protocolf("%d results for two statements", len(results))
	}
	micros, err := strconv.ParseInt(text(results[0])[0][0], 10, 64)
	if err != nil {
		return 0, 0, protocolf("the server's clock: %w", err)
	}
	if flushed, err = pipeline.ParseLSN(text(results[1])[0][0]); err != nil {
		return 0, 0, &protocolError{err}
	}
	return pipeline.Timestamp(micros - epochMicros), flushed, nil
}

// expect waits for the stream to reach a position.
func (p *probing) expect(target pipeline.LSN, now time.Time) {
	if p.target != 0 {
		p.target = max(p.target, target) // the wait that has begun goes on
		p.d.askForKeepalive()
		return
	}
	p.target = target
	p.rest(now)
}

// rest begins a wait of NudgeAfter.
func (p *probing) rest(now time.Time) {
	d := p.d
	d.mu.Lock()
	p.mark, p.replies = d.status.Received, d.replies
	d.mu.Unlock()
	p.checkAt = now.Add(d.opts.NudgeAfter)
	d.askForKeepalive()
}

// watch nudges a stream that stands still: it has not moved for NudgeAfter, although the walsender was asked and has
// answered, so it has nothing more to read. A stream that moves, a sink without room and a walsender that is busy, or in
// the middle of a transaction or of a block of one, are left alone. The nudge itself is flushed, and ends the record that the position lies in.
func (p *probing) watch(ctx context.Context, now time.Time) error {
	d := p.d
	d.mu.Lock()
	received, replies, busy := d.status.Received, d.replies, d.inside || !d.busy.IsZero()
	d.mu.Unlock()
	switch {
	case received >= p.target:
		p.target = 0
		return nil
	case now.Before(p.checkAt):
		return nil
	case received != p.mark || replies == p.replies || busy || !d.opts.Nudge:
		p.rest(now)
		return nil
	}
	if _, err := p.row(ctx, 1, nudgeSQL); err != nil {
		return fmt.Errorf("nudge: %w", err)
	}
	p.target = 0 // once
	d.mu.Lock()
	d.status.Nudges++
	d.mu.Unlock()
	return nil
}

// poll refreshes what Status tells of the server.
func (p *probing) poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.d.opts.SilenceMax)
	defer cancel()
	s, err := readSlot(ctx, p.conn, p.d.src.Slot)
	if err != nil {
		return err
	}
	sent := time.Now()
	clock, flushed, err := p.ask(ctx)
	if err != nil {
		return fmt.Errorf("ask for the clock: %w", err)
	}
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	p.d.status.measured(clock, sent, time.Now())
	p.d.status.Flushed = max(p.d.status.Flushed, flushed)
	p.d.status.RetainedBytes, p.d.status.WALStatus = s.retained, s.walStatus
	return nil
}

func (p *probing) row(ctx context.Context, n int, sql string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.d.opts.SilenceMax)
	defer cancel()
	return queryRow(ctx, p.conn, n, sql)
}
