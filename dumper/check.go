package dumper

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Severity ranks findings.
type Severity uint8

const (
	OK      Severity = iota // as it should be, or worth knowing
	Warning                 // works, with a drawback
	Fault                   // does not work
)

func (s Severity) String() string { return [...]string{"ok", "warning", "error"}[s] }

// Finding is one thing that Check looked at.
type Finding struct {
	Severity Severity
	What     string
	Try      string // what mends it; empty when nothing needs to be
}

// CheckSpec says what is to be captured.
type CheckSpec struct {
	DSN          string
	Tables       []string // patterns, as in ProvisionSpec
	Publications []string // existing ones, as in ProvisionSpec
}

// clockOffsetMax is how far a shard's clock may be from this machine's before it is worth a warning.
const clockOffsetMax = 100 * time.Millisecond

// Check looks at everything that a shard needs before it can be captured and returns all that it found, good and bad. It
// changes nothing. An error means that it could not look; what it had found by then comes with it.
func Check(ctx context.Context, spec CheckSpec) ([]Finding, error) {
	conn, err := dial(ctx, spec.DSN, "check", false)
	if err != nil {
		return []Finding{{Fault, "no connection: " + err.Error(), "check host, port, database, user, password and pg_hba.conf"}}, nil
	}
	defer hangUp(conn)
	c := &checking{conn: conn, spec: spec}
	for _, step := range []func(context.Context) error{c.server, c.room, c.role, c.old, c.clock, c.tables, c.publications} {
		if err := step(ctx); err != nil {
			return c.findings, fmt.Errorf("check the shard: %w", err)
		}
	}
	return c.findings, nil
}

// CheckTables looks only at whether tables can be published: of a shard that is captured already.
func CheckTables(ctx context.Context, dsn string, tables []string) ([]Finding, error) {
	conn, err := dial(ctx, dsn, "check", false)
	if err != nil {
		return nil, err
	}
	defer hangUp(conn)
	row, err := queryRow(ctx, conn, 1, "SELECT current_setting('server_version_num')")
	if err != nil {
		return nil, err
	}
	c := &checking{conn: conn, spec: CheckSpec{DSN: dsn, Tables: tables}}
	if c.version, err = strconv.Atoi(row[0]); err != nil {
		return nil, fmt.Errorf("server_version_num: %w", err)
	}
	if err := c.tables(ctx); err != nil {
		return c.findings, fmt.Errorf("check the tables: %w", err)
	}
	return c.findings, nil
}

type checking struct {
	conn     *pgconn.PgConn
	spec     CheckSpec
	version  int // like 150018
	findings []Finding
}

func (c *checking) found(s Severity, try, format string, args ...any) {
	c.findings = append(c.findings, Finding{s, fmt.Sprintf(format, args...), try})
}

// verdict adds a finding that is fine or not.
func (c *checking) verdict(fine bool, bad Severity, what, try string) {
	if fine {
		c.findings = append(c.findings, Finding{OK, what, ""})
		return
	}
	c.findings = append(c.findings, Finding{bad, what, try})
}

// server looks at version and settings.
func (c *checking) server(ctx context.Context) error {
	row, err := queryRow(ctx, c.conn, 7, `SELECT current_setting('server_version_num')::int, current_setting('wal_level'), pg_catalog.pg_is_in_recovery(),
  current_setting('max_prepared_transactions'), current_setting('max_slot_wal_keep_size'), current_setting('wal_sender_timeout'),
  coalesce(current_setting('idle_replication_slot_timeout', true), '0')`)
	if err != nil {
		return err
	}
	if c.version, err = strconv.Atoi(row[0]); err != nil {
		return fmt.Errorf("server_version_num: %w", err)
	}
	c.verdict(c.version >= versionMin, Fault, "PostgreSQL "+versionName(c.version), "upgrade to 15 or newer, whose logical decoding knows two-phase commit")
	c.verdict(row[1] == "logical", Fault, "wal_level is "+row[1], "ALTER SYSTEM SET wal_level = logical, then restart the server")
	c.verdict(row[2] == "f", Fault, map[bool]string{true: "the server is a primary", false: "the server is a standby"}[row[2] == "f"], "the DSN of the primary")
	c.verdict(row[3] != "0", Warning, "max_prepared_transactions is "+row[3], "ALTER SYSTEM SET max_prepared_transactions = 200 and restart the server, if transactions span shards")
	if row[4] == "-1" {
		c.found(OK, "", "max_slot_wal_keep_size is -1: the server keeps WAL without limit while it is not read (watch the disk)")
	} else {
		c.found(Warning, "a limit that outlasts the longest outage, or -1", "max_slot_wal_keep_size is %s: the slot is lost when more WAL than that has not been read", row[4])
	}
	if row[6] != "0" { // new in 18
		c.found(Warning, "a limit that outlasts the longest outage, or 0", "idle_replication_slot_timeout is %s: the slot is lost when nobody has read it for so long", row[6])
	}
	c.verdict(row[5] != "0", Warning, "wal_sender_timeout is "+row[5], "ALTER SYSTEM SET wal_sender_timeout = '60s': without it, a reader that vanished keeps the slot in use")
	return nil
}

// room looks for a free slot and a free walsender.
func (c *checking) room(ctx context.Context) error {
	row, err := queryRow(ctx, c.conn, 6, `SELECT max_slots, slots, slots < max_slots, max_senders, senders, senders < max_senders FROM
  (SELECT current_setting('max_replication_slots')::int AS max_slots, (SELECT count(*) FROM pg_catalog.pg_replication_slots) AS slots,
   current_setting('max_wal_senders')::int AS max_senders, (SELECT count(*) FROM pg_catalog.pg_stat_replication) AS senders) AS room`)
	if err != nil {
		return err
	}
	for i, name := range []string{"max_replication_slots", "max_wal_senders"} {
		limit, used, free := row[3*i], row[3*i+1], row[3*i+2] == "t"
		c.verdict(free, Fault, fmt.Sprintf("%s of %s (%s) are used", used, limit, name), "raise "+name+" and restart the server, or drop what nobody needs")
	}
	return nil
}

// role looks at privileges.
func (c *checking) role(ctx context.Context) error {
	row, err := queryRow(ctx, c.conn, 4, `SELECT rolname, rolreplication OR rolsuper, pg_catalog.has_database_privilege(current_database(), 'CREATE'), current_database()
FROM pg_catalog.pg_roles WHERE rolname = current_user`)
	if err != nil {
		return err
	}
	name := identifier(row[0])
	c.verdict(row[1] == "t", Fault, "role "+name+map[bool]string{true: " may replicate", false: " may not replicate"}[row[1] == "t"], "ALTER ROLE "+name+" REPLICATION")
	if len(c.spec.Publications) == 0 {
		c.verdict(row[2] == "t", Fault, "role "+name+map[bool]string{true: " may", false: " may not"}[row[2] == "t"]+" create a publication",
			"GRANT CREATE ON DATABASE "+identifier(row[3])+" TO "+name+", or have one created and name it with --publication")
	}
	return nil
}

// old looks for what making a slot would wait for.
func (c *checking) old(ctx context.Context) error {
	old, err := oldTransactions(ctx, c.conn)
	if err != nil {
		return err
	}
	for _, o := range old {
		c.found(Warning, "finish it first: making the slot waits for it", "%s", o)
	}
	return nil
}

// clock compares clocks; the best of a few tries counts.
func (c *checking) clock(ctx context.Context) error {
	var s Status
	d := New(Source{}, nil, Options{})
	p := &probing{d: d, conn: c.conn}
	for range 5 {
		sent := time.Now()
		clock, _, err := p.ask(ctx)
		if err != nil {
			return err
		}
		s.measured(clock, sent, time.Now())
	}
	c.verdict(s.ClockOffset.Abs() <= clockOffsetMax+s.ClockUncertainty, Warning,
		fmt.Sprintf("the clock is %s ± %s from this machine's", s.ClockOffset.Round(time.Microsecond), s.ClockUncertainty.Round(time.Microsecond)),
		"let NTP or chrony set all clocks: a clock that is off delays the stream and blurs the order between shards")
	return nil
}

// tables looks at what the patterns match.
func (c *checking) tables(ctx context.Context) error {
	if len(c.spec.Tables) == 0 {
		return nil
	}
	all, err := readTables(ctx, c.conn)
	if err != nil {
		return err
	}
	chosen, err := selectTables(all, c.spec.Tables)
	if err != nil {
		c.found(Fault, "", "%s", err)
		return nil
	}
	for _, fault := range append(chosen.faults, chosen.identityFaults(c.version)...) {
		what, try, _ := strings.Cut(fault, ". Try: ")
		c.found(Fault, try, "%s", what)
	}
	for _, note := range chosen.notes {
		what, try, _ := strings.Cut(note, ". Try: ")
		c.found(Warning, try, "%s", what)
	}
	if err := c.owners(ctx, chosen.tables); err != nil {
		return err
	}
	c.verdict(len(chosen.tables) > 0, Fault, fmt.Sprintf("%d tables to publish", len(chosen.tables)), "other patterns, or create the tables first")
	return nil
}

// ownedMax is how many tables of an owner a finding names.
const ownedMax = 10

// owners looks for roles whose tables this one may not publish.
func (c *checking) owners(ctx context.Context, tables []table) error {
	quoted := map[string]string{}
	var oids []string
	for _, t := range tables {
		if !t.owned {
			quoted[t.oid], oids = t.quoted(), append(oids, t.oid)
		}
	}
	if len(oids) == 0 {
		return nil
	}
	rows, err := query(ctx, c.conn, `SELECT r.rolname, r.rolsuper, current_user, pg_catalog.string_agg(c.oid::text, ' ' ORDER BY n.nspname, c.relname)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
WHERE c.oid IN (`+strings.Join(oids, ", ")+`) GROUP BY r.rolname, r.rolsuper ORDER BY r.rolname`)
	if err != nil {
		return fmt.Errorf("list the tables' owners: %w", err)
	}
	for _, r := range rows {
		owner, role := identifier(r[0]), identifier(r[2])
		var names []string
		for _, oid := range strings.Fields(r[3]) {
			names = append(names, quoted[oid])
		}
		try := "have " + owner + " create a publication, and name it with --publication"
		if r[1] == "f" { // a superuser's rights are not to be granted for this
			try = "GRANT " + owner + " TO " + role + ", or " + try
		}
		c.found(Fault, try, "role %s may not publish tables of role %s: %s", role, owner, firstOf(names, ownedMax))
	}
	return nil
}

// firstOf names the first few.
func firstOf(names []string, limit int) string {
	if more := len(names) - limit; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), more)
	}
	return strings.Join(names, ", ")
}

// publications looks for the given ones.
func (c *checking) publications(ctx context.Context) error {
	if len(c.spec.Publications) == 0 {
		return nil
	}
	missing, err := missingPublications(ctx, c.conn, c.spec.Publications)
	if err != nil {
		return err
	}
	for _, name := range missing {
		c.found(Fault, "CREATE PUBLICATION "+identifier(name)+" FOR TABLE ...", "publication %q does not exist", name)
	}
	return nil
}
