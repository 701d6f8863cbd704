package dumper

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline"
)

// verify makes sure that the slot can give everything after the stream's position, before anything is read.
func (d *Dumper) verify(ctx context.Context, conn *pgconn.PgConn) error {
	if err := d.verifySystem(ctx, conn); err != nil {
		return err
	}
	s, err := readSlot(ctx, conn, d.src.Slot)
	if err != nil {
		return err
	}
	if err := d.verifySlot(ctx, conn, s); err != nil {
		return err
	}
	return d.verifyPublications(ctx, conn)
}

// verifySystem compares the server with the one that the positions belong to.
func (d *Dumper) verifySystem(ctx context.Context, conn *pgconn.PgConn) error {
	row, err := queryRow(ctx, conn, 4, "IDENTIFY_SYSTEM")
	if err != nil {
		return fmt.Errorf("identify system: %w", err)
	}
	timeline, err := strconv.ParseInt(row[1], 10, 32)
	if err != nil {
		return protocolf("IDENTIFY_SYSTEM: timeline %q", row[1])
	}
	server, err := queryRow(ctx, conn, 3, "SELECT pg_is_in_recovery(), current_setting('wal_level'), current_setting('server_version_num')")
	if err != nil {
		return fmt.Errorf("ask for the server's settings: %w", err)
	}
	version, err := strconv.Atoi(server[2])
	if err != nil {
		return protocolf("server_version_num %q", server[2])
	}
	d.mu.Lock()
	d.status.ServerVersion = version
	d.mu.Unlock()
	switch {
	case d.src.SystemID != "" && row[0] != d.src.SystemID:
		return &FatalError{
			What: fmt.Sprintf("another server answers: its system identifier is %s, the subscription was made for %s", row[0], d.src.SystemID),
			Try:  "correct the DSN; for a new server, cdcctl drop-subscription and create-subscription",
		}
	case server[0] == "t":
		return fmt.Errorf("the server is a standby in recovery; its promotion is awaited: %w", errWait)
	case d.src.Timeline != 0 && int32(timeline) != d.src.Timeline:
		return &FatalError{
			What: fmt.Sprintf("the server is on timeline %d, the subscription on %d: it was promoted or restored, and its WAL may lack what was read before", timeline, d.src.Timeline),
			Try:  "cdcctl drop-subscription and create-subscription, which fills the target again",
		}
	case version < versionMin:
		return &FatalError{What: fmt.Sprintf("PostgreSQL %s is too old", versionName(version)), Try: "PostgreSQL 15 or newer, whose logical decoding knows two-phase commit"}
	case server[1] != "logical":
		return &FatalError{What: fmt.Sprintf("wal_level is %s", server[1]), Try: "ALTER SYSTEM SET wal_level = logical, then restart the server"}
	}
	return nil
}

const versionMin = 150000

func versionName(num int) string { return fmt.Sprintf("%d.%d", num/10000, num%10000) }

// slot is a row of pg_replication_slots.
type slot struct {
	exists                 bool
	plugin, kind, database string
	here                   string // the connection's own database
	active                 bool
	pid                    uint32
	application            string // of the pid
	twoPhase               bool
	walStatus, invalidated string
	confirmed              pipeline.LSN
	senderTimeoutMillis    int
	flushed                pipeline.LSN
	retained               uint64
}

// readSlot works on every connection. Columns that only newer versions have are read by way of JSON.
func readSlot(ctx context.Context, conn *pgconn.PgConn, name string) (s slot, err error) {
	row, err := queryRow(ctx, conn, 14, `SELECT s.slot_name IS NOT NULL, s.plugin, s.slot_type, s.database, pg_catalog.current_database(),
  coalesce(s.active, false), coalesce(s.active_pid, 0), coalesce(a.application_name, ''), coalesce(s.two_phase, false), s.wal_status,
  pg_catalog.to_jsonb(s) ->> 'invalidation_reason', coalesce(s.confirmed_flush_lsn, '0/0'),
  (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'),
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0/0' ELSE pg_catalog.pg_current_wal_flush_lsn() END
    || ' ' || CASE WHEN pg_catalog.pg_is_in_recovery() OR s.restart_lsn IS NULL THEN 0
       ELSE greatest(0, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)) END
FROM (SELECT 1) AS one
LEFT JOIN pg_catalog.pg_replication_slots AS s ON s.slot_name = `+literal(name)+`
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.active_pid`)
	if err != nil {
		return s, fmt.Errorf("look at slot %q: %w", name, err)
	}
	s = slot{
		exists: row[0] == "t", plugin: row[1], kind: row[2], database: row[3], here: row[4], active: row[5] == "t",
		application: row[7], twoPhase: row[8] == "t", walStatus: row[9], invalidated: row[10],
	}
	pid, err := strconv.ParseUint(row[6], 10, 32)
	if err != nil {
		return s, protocolf("pid %q", row[6])
	}
	s.pid = uint32(pid)
	if s.confirmed, err = pipeline.ParseLSN(row[11]); err != nil {
		return s, &protocolError{err}
	}
	if s.senderTimeoutMillis, err = strconv.Atoi(row[12]); err != nil {
		return s, protocolf("wal_sender_timeout %q", row[12])
	}
	flushed, retained, _ := strings.Cut(row[13], " ")
	if s.flushed, err = pipeline.ParseLSN(flushed); err != nil {
		return s, &protocolError{err}
	}
	if s.retained, err = strconv.ParseUint(retained, 10, 64); err != nil {
		return s, protocolf("retained WAL %q", retained)
	}
	return s, nil
}

// verifySlot refuses a slot that cannot give every record after the stream's position.
func (d *Dumper) verifySlot(ctx context.Context, conn *pgconn.PgConn, s slot) error {
	name := d.src.Slot
	fatal := func(try, format string, args ...any) error {
		return &FatalError{What: fmt.Sprintf("slot %q ", name) + fmt.Sprintf(format, args...), Try: try}
	}
	switch {
	case !s.exists:
		return fatal(recreate, "does not exist")
	case s.kind != "logical" || s.plugin != "pgoutput":
		return fatal("another slot name", "is a %s slot of plugin %q, not a logical one of pgoutput", s.kind, s.plugin)
	case s.database != s.here:
		return fatal("the DSN of database "+s.database, "belongs to database %q, the connection to %q", s.database, s.here)
	case s.walStatus == "lost" || s.invalidated != "":
		return fatal(recreate, "is invalid (wal_status %s%s): the server removed what it has not delivered", s.walStatus, because(s.invalidated))
	case !s.twoPhase:
		return fatal("a slot made with two_phase; cdcctl create-subscription makes one", "was made without two_phase: prepared transactions would come without their names")
	case s.confirmed > d.position:
		return fatal(recreate, "stands at %s, ahead of what was read (%s): somebody else has moved it", s.confirmed, d.position)
	case s.flushed < d.position:
		// A walsender sends only what is flushed, and that outlives a crash.
		return &FatalError{
			What: fmt.Sprintf("its WAL ends at %s, before what was read of it (%s): the server was restored from an older copy, and new commits would be taken for old ones", s.flushed, d.position),
			Try:  recreate,
		}
	case s.active:
		return d.slotActive(ctx, conn, s)
	}
	d.activeSince = time.Time{}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status.WALStatus, d.status.RetainedBytes, d.status.Flushed = s.walStatus, s.retained, s.flushed
	d.feedback.interval = d.opts.StatusInterval
	if limit := time.Duration(s.senderTimeoutMillis) * time.Millisecond / 3; limit > 0 {
		d.feedback.interval = min(d.feedback.interval, limit)
	}
	return nil
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ", " + reason
}

// slotActive waits for a slot in use. Our own last walsender may not have noticed yet that we are gone: it is ended.
// Another one of this program's gets EvictAfter, somebody else's may be on its way out, and gets ActiveWait.
func (d *Dumper) slotActive(ctx context.Context, conn *pgconn.PgConn, s slot) error {
	now := time.Now()
	if d.activeSince.IsZero() {
		d.activeSince = now
	}
	waited := now.Sub(d.activeSince)
	evict := s.pid == d.formerPID || d.opts.EvictAfter > 0 && waited >= d.opts.EvictAfter
	if s.pid != 0 && evict && s.application == applicationName(d.src.Slot) {
		if _, err := query(ctx, conn, fmt.Sprintf("SELECT pg_catalog.pg_terminate_backend(%d)", s.pid)); err != nil {
			return fmt.Errorf("end an older walsender of ours (pid %d): %w", s.pid, err)
		}
	}
	if waited >= d.opts.ActiveWait {
		return &FatalError{
			What: fmt.Sprintf("slot %q is in use by pid %d (%s) on the server, for %s now", d.src.Slot, s.pid, application(s.application), waited.Round(time.Millisecond)),
			Try:  fmt.Sprintf("stop the other reader, or SELECT pg_terminate_backend(%d)", s.pid),
		}
	}
	return fmt.Errorf("slot %q is in use by pid %d (%s): %w", d.src.Slot, s.pid, application(s.application), errWait)
}

func application(name string) string {
	if name == "" {
		return "application unknown"
	}
	return "application " + strconv.Quote(name)
}

// verifyPublications looks for each by name. (PostgreSQL itself would complain only at the first change.)
func (d *Dumper) verifyPublications(ctx context.Context, conn *pgconn.PgConn) error {
	if len(d.src.Publications) == 0 {
		return &FatalError{What: "no publication is given", Try: "cdcctl create-subscription with --tables or --publication"}
	}
	missing, err := missingPublications(ctx, conn, d.src.Publications)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return &FatalError{
			What: "publication " + list(missing, strconv.Quote) + " does not exist",
			Try:  "create it again with the same name and tables; cdcctl drop-subscription and create-subscription if changes were made without it",
		}
	}
	return nil
}

func missingPublications(ctx context.Context, conn *pgconn.PgConn, names []string) ([]string, error) {
	rows, err := query(ctx, conn, "SELECT pubname FROM pg_catalog.pg_publication WHERE pubname IN ("+list(names, literal)+")")
	if err != nil {
		return nil, fmt.Errorf("look for the publications: %w", err)
	}
	var missing []string
	for _, name := range names {
		if !slices.ContainsFunc(rows, func(row []string) bool { return row[0] == name }) {
			missing = append(missing, name)
		}
	}
	return missing, nil
}
