package dumper

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline"
)

// ProvisionSpec says what to make on a shard.
type ProvisionSpec struct {
	DSN  string
	Name string // the shard's name, for messages
	// Slot is made here. With UseSlot it exists already and is only looked at.
	Slot    string
	UseSlot bool
	// Publications exist already. If there are none, Publication is made for Tables: patterns like public.*,
	// "Quoted".t or -public.audit (see package pattern), resolved once, now. (Explicit tables, not FOR ALL TABLES: that would make UPDATE fail on the source for
	// every later table without a key.)
	Publications []string
	Publication  string
	Tables       []string
	SlotTimeout  time.Duration // how long making the slot may wait for older transactions; 30 s
}

// Provisioned is what was found and made.
type Provisioned struct {
	SystemID     string
	Timeline     int32
	Version      int // like 150018
	Slot         string
	Start        pipeline.LSN // the slot's position: the stream begins after it
	Publications []string
	Tables       []string // published, quoted; empty when the publications were given
	Failover     bool     // the slot is synchronised to standbys
	Notes        []string // what people should know; each a sentence
}

// undoTimeout bounds the clearing away after a failure.
const undoTimeout = 10 * time.Second

// Provision makes the publication and then the slot: every position that the slot delivers knows the publication. After
// an error nothing of it is left.
func Provision(ctx context.Context, spec ProvisionSpec) (_ Provisioned, err error) {
	if spec.SlotTimeout == 0 {
		spec.SlotTimeout = 30 * time.Second
	}
	conn, err := dial(ctx, spec.DSN, spec.Slot, false)
	if err != nil {
		return Provisioned{}, named(spec.Name, err)
	}
	defer hangUp(conn)
	p := &provisioning{spec: spec, conn: conn, out: Provisioned{Slot: spec.Slot}}
	if err := p.run(ctx); err != nil {
		return Provisioned{}, named(spec.Name, errors.Join(err, p.undo(ctx)))
	}
	return p.out, nil
}

// named puts the shard's name before an error.
func named(shard string, err error) error {
	var fatal *FatalError
	if errors.As(err, &fatal) && fatal.Shard == "" {
		fatal.Shard = shard
	}
	if err == nil || errors.As(err, &fatal) && fatal.Shard == shard {
		return err
	}
	return fmt.Errorf("shard %s: %w", shard, err)
}

type provisioning struct {
	spec ProvisionSpec
	conn *pgconn.PgConn
	out  Provisioned

	publicationTried, slotTried bool // may have been made: to be undone
}

func (p *provisioning) run(ctx context.Context) error {
	if err := p.identify(ctx); err != nil {
		return err
	}
	if err := p.publications(ctx); err != nil {
		return err
	}
	if p.spec.UseSlot {
		return p.useSlot(ctx)
	}
	return p.createSlot(ctx)
}

func (p *provisioning) identify(ctx context.Context) error {
	row, err := queryRow(ctx, p.conn, 5, `SELECT system_identifier, current_setting('server_version_num'), current_setting('wal_level'), pg_catalog.pg_is_in_recovery(),
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0' ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()), 1, 8) END
FROM pg_catalog.pg_control_system()`)
	if err != nil {
		return fmt.Errorf("identify the server: %w", err)
	}
	timeline, err := strconv.ParseInt(row[4], 16, 32)
	if err != nil {
		return fmt.Errorf("timeline %q: %w", row[4], err)
	}
	p.out.SystemID, p.out.Timeline = row[0], int32(timeline)
	if p.out.Version, err = strconv.Atoi(row[1]); err != nil {
		return fmt.Errorf("server_version_num: %w", err)
	}
	switch {
	case p.out.Version < versionMin:
		return &FatalError{What: "PostgreSQL " + versionName(p.out.Version) + " is too old", Try: "PostgreSQL 15 or newer"}
	case row[3] == "t":
		return &FatalError{What: "the server is a standby", Try: "the DSN of the primary"}
	case row[2] != "logical":
		return &FatalError{What: "wal_level is " + row[2], Try: "ALTER SYSTEM SET wal_level = logical, then restart the server"}
	}
	return nil
}

// publications looks for the given ones or makes one.
func (p *provisioning) publications(ctx context.Context) error {
	given := p.spec.Publications
	if len(given) == 0 {
		return p.createPublication(ctx)
	}
	if len(p.spec.Tables) > 0 {
		return &FatalError{What: "both tables and publications are given", Try: "either --tables or --publication"}
	}
	missing, err := missingPublications(ctx, p.conn, given)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return &FatalError{What: "publication " + list(missing, strconv.Quote) + " does not exist", Try: "CREATE PUBLICATION, or --tables to have one made"}
	}
	p.out.Publications = given
	return nil
}

// madeBy is the comment on a publication that Provision made; Deprovision drops only those.
func madeBy(slot string) string { return "made by shardcdc for slot " + slot }

func (p *provisioning) createPublication(ctx context.Context) error {
	name := p.spec.Publication
	if len(p.spec.Tables) == 0 || name == "" {
		return &FatalError{What: "neither tables nor publications are given", Try: "--tables 'public.*'"}
	}
	all, err := readTables(ctx, p.conn)
	if err != nil {
		return err
	}
	chosen, err := selectTables(all, p.spec.Tables)
	if err != nil {
		return &FatalError{What: err.Error()}
	}
	if faults := append(chosen.faults, chosen.identityFaults(p.out.Version)...); len(faults) > 0 {
		return &FatalError{What: "these tables cannot be published:\n  " + strings.Join(faults, "\n  ")}
	}
	if len(chosen.tables) == 0 {
		return &FatalError{What: "no table is left to publish:\n  " + strings.Join(chosen.notes, "\n  ")}
	}
	exists, err := missingPublications(ctx, p.conn, []string{name})
	if err != nil {
		return err
	}
	if len(exists) == 0 {
		return &FatalError{What: fmt.Sprintf("publication %q exists already", name), Try: "--publication " + name + " to use it, or DROP PUBLICATION " + identifier(name)}
	}
	options := "publish_via_partition_root = true"
	if wanting := chosen.wantsGenerated(p.out.Version); len(wanting) > 0 {
		options += ", publish_generated_columns = stored"
		chosen.notes = append(chosen.notes, "stored generated columns of every table are published: they are in the replica identity of "+strings.Join(wanting, ", "))
	}
	p.publicationTried = true
	_, err = query(ctx, p.conn, fmt.Sprintf("SET lock_timeout = %d; CREATE PUBLICATION %s FOR TABLE ONLY %s WITH (%s); COMMENT ON PUBLICATION %s IS %s; SET lock_timeout = 0",
		p.spec.SlotTimeout.Milliseconds(), identifier(name), strings.Join(chosen.names(), ", ONLY "), options, identifier(name), literal(madeBy(p.spec.Slot))))
	if err != nil {
		return fmt.Errorf("create publication %q: %w", name, err)
	}
	p.out.Publications, p.out.Tables, p.out.Notes = []string{name}, chosen.names(), chosen.notes
	return nil
}

// useSlot looks at a slot that exists.
func (p *provisioning) useSlot(ctx context.Context) error {
	s, err := readSlot(ctx, p.conn, p.spec.Slot)
	if err != nil {
		return err
	}
	d := New(Source{Slot: p.spec.Slot, Start: s.confirmed}, nil, Options{})
	d.opts.ActiveWait = 0
	if err := d.verifySlot(ctx, p.conn, s); err != nil {
		return err
	}
	p.out.Start = s.confirmed
	return nil
}

// createSlot makes the slot, synchronised to standbys where the server can. It waits for every transaction that is open
// or prepared now, so its time is limited by the server, which leaves nothing behind.
func (p *provisioning) createSlot(ctx context.Context) error {
	name := p.spec.Slot
	s, err := readSlot(ctx, p.conn, name)
	if err != nil {
		return err
	}
	if s.exists {
		return &FatalError{What: fmt.Sprintf("slot %q exists already", name), Try: fmt.Sprintf("another name, or SELECT pg_drop_replication_slot(%s) if nobody needs it", literal(name))}
	}
	p.slotTried = true
	p.out.Failover = p.out.Version >= 170000
	start, err := p.callCreate(ctx, p.out.Failover)
	var pg *pgconn.PgError
	if p.out.Failover && errors.As(err, &pg) && pg.Code == "0A000" {
		p.out.Failover = false
		p.out.Notes = append(p.out.Notes, "the slot is not synchronised to standbys: this server refuses failover together with two_phase")
		start, err = p.callCreate(ctx, false)
	}
	if errors.As(err, &pg) && pg.Code == "57014" && ctx.Err() == nil {
		return p.blocked(ctx)
	}
	if err != nil {
		p.slotTried = pg == nil || pg.Code != "42710" // somebody else made one of this name in this very moment
		return fmt.Errorf("create slot %q: %w", name, err)
	}
	p.out.Start, err = pipeline.ParseLSN(start)
	return err
}

func (p *provisioning) callCreate(ctx context.Context, failover bool) (string, error) {
	args := literal(p.spec.Slot) + ", 'pgoutput', false, true"
	if failover {
		args += ", true"
	}
	if _, err := query(ctx, p.conn, fmt.Sprintf("SET statement_timeout = %d", p.spec.SlotTimeout.Milliseconds())); err != nil {
		return "", err
	}
	row, err := queryRow(ctx, p.conn, 1, "SELECT lsn FROM pg_catalog.pg_create_logical_replication_slot("+args+")")
	if err != nil {
		return "", err
	}
	return row[0], nil
}

// blocked lists what the slot would have had to wait for.
func (p *provisioning) blocked(ctx context.Context) error {
	if _, err := query(ctx, p.conn, "SET statement_timeout = 0"); err != nil {
		return err
	}
	old, err := oldTransactions(ctx, p.conn)
	if err != nil {
		return err
	}
	return &FatalError{
		What: fmt.Sprintf("slot %q could not be made within %s: it waits for transactions that were open before\n  %s\n", p.spec.Slot, p.spec.SlotTimeout, strings.Join(old, "\n  ")),
		Try:  "finish them (COMMIT PREPARED or ROLLBACK PREPARED, pg_terminate_backend) and run this again, or allow more time",
	}
}

// oldTransactions lists prepared transactions and backends that have written something.
func oldTransactions(ctx context.Context, conn *pgconn.PgConn) ([]string, error) {
	rows, err := query(ctx, conn, `SELECT pg_catalog.format('prepared transaction %L, since %s, owner %s, database %s', gid, prepared, owner, database) FROM pg_catalog.pg_prepared_xacts
UNION ALL
SELECT pg_catalog.format('pid %s, since %s, user %s, database %s, application %L', pid, xact_start, usename, datname, application_name)
FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()`)
	if err != nil {
		return nil, fmt.Errorf("list old transactions: %w", err)
	}
	old := make([]string, len(rows))
	for i, r := range rows {
		old[i] = r[0]
	}
	return old, nil
}

// undo removes what may have been made, on a connection of its own: the first may be what broke.
func (p *provisioning) undo(ctx context.Context) error {
	if !p.publicationTried && !p.slotTried {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	spec := DeprovisionSpec{DSN: p.spec.DSN, Name: p.spec.Name}
	if p.publicationTried {
		spec.Publication = p.spec.Publication
	}
	if p.slotTried {
		spec.Slot = p.spec.Slot
	}
	spec.madeFor = p.spec.Slot
	if _, err := Deprovision(ctx, spec); err != nil {
		return fmt.Errorf("and what was made could not be removed: %w", err)
	}
	return nil
}
