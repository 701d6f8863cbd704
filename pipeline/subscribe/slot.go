package subscribe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/shape"
	"shardcdc/pipeline/wire"
)

// slot is what pg_replication_slots says.
type slot struct {
	exists         bool
	plugin, kind   string
	here, twoPhase bool
	active         bool
	pid            int
	reader         string // application of pid
	status         string
}

func (d *database) slot(ctx context.Context, name string) (s slot, err error) {
	err = d.QueryRow(ctx, `SELECT coalesce(s.plugin, '')::text, s.slot_type::text, coalesce(s.database = current_database(), false), s.two_phase, s.active,
  coalesce(s.active_pid, 0), coalesce(a.application_name, '')::text, coalesce(s.wal_status, '')::text
FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = $1`, name).
		Scan(&s.plugin, &s.kind, &s.here, &s.twoPhase, &s.active, &s.pid, &s.reader, &s.status)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("look at slot %q: %w", name, err)
	}
	s.exists = true
	return s, nil
}

// usable says why the slot cannot be used, if it cannot.
func (s *slot) usable(name string) []Finding {
	switch {
	case !s.exists:
		return []Finding{faultf("", "the name of one that exists, or no --slot to have one made", "slot %q does not exist", name)}
	case s.kind != "logical" || s.plugin != "pgoutput":
		return []Finding{faultf("", "another slot", "slot %q is a %s slot of plugin %q, not a logical one of pgoutput", name, s.kind, s.plugin)}
	case !s.here:
		return []Finding{faultf("", "a slot of the database that the DSN names", "slot %q belongs to another database", name)}
	case s.status == "lost":
		return []Finding{faultf("", "cdcctl drop-subscription and create-subscription, which fills the target again", "slot %q is lost: the server removed WAL that it had not delivered", name)}
	case !s.twoPhase:
		return []Finding{faultf("", "a slot made with two_phase", "slot %q was made without two_phase: prepared transactions would come without their names", name)}
	}
	return nil
}

// checkNames looks whether the slot and the publication can be made, or used if they were given.
func checkNames(ctx context.Context, db *database, spec *Spec, shard string) (findings []Finding, err error) {
	name := spec.slot(shard)
	s, err := db.slot(ctx, name)
	if err != nil {
		return nil, err
	}
	switch {
	case spec.Slot != "":
		findings = s.usable(name)
		if s.active {
			findings = append(findings, faultf("", fmt.Sprintf("stop that reader, or another slot: SELECT pg_terminate_backend(%d)", s.pid), "slot %q is in use by pid %d (application %q)", name, s.pid, s.reader))
		}
	case s.exists:
		try := fmt.Sprintf("another name for the subscription, or SELECT pg_drop_replication_slot('%s') if nobody needs it", name)
		findings = append(findings, faultf("", try, "slot %q exists already%s", name, inUse(&s)))
	}
	if len(spec.Publications) > 0 {
		return findings, nil
	}
	there, err := db.publications(ctx, spec.publications())
	if err != nil {
		return findings, err
	}
	for _, p := range there {
		findings = append(findings, faultf("", "--publication "+p+" to use it, or DROP PUBLICATION "+pgx.Identifier{p}.Sanitize(), "publication %q exists already", p))
	}
	return findings, nil
}

func inUse(s *slot) string {
	if !s.active {
		return ""
	}
	return fmt.Sprintf(" and is in use by pid %d (application %q)", s.pid, s.reader)
}

// publications says which of them exist.
func (d *database) publications(ctx context.Context, names []string) ([]string, error) {
	rows, err := d.Query(ctx, "SELECT pubname::text FROM pg_catalog.pg_publication WHERE pubname = ANY($1) ORDER BY 1", names)
	if err != nil {
		return nil, fmt.Errorf("look for publications: %w", err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for publications: %w", err)
	}
	return there, nil
}

// CheckExisting looks whether everything that a subscription was made with is still there and as it was.
func CheckExisting(ctx context.Context, bus *control.Bus, sub *control.Subscription) []Finding {
	shards := make([]shardCheck, len(sub.Shards))
	targets := make([][]Finding, len(sub.Targets))
	var wait sync.WaitGroup
	for i := range sub.Shards {
		wait.Go(func() { shards[i].existing(ctx, &sub.Shards[i], sub.Shape) })
	}
	findings := append(checkNATS(ctx, bus), checkStream(ctx, bus, sub)...)
	wait.Wait()
	names := make([]Shard, len(sub.Shards))
	for i := range shards {
		names[i].Name = sub.Shards[i].Name
		findings = append(findings, shards[i].findings...)
	}
	findings = append(findings, checkDDL(ctx, sub)...)
	tables := published(shards)
	findings = append(findings, shapeNames(sub.Shape, tables, true)...)
	findings = append(findings, clocks(names, shards, time.Duration(sub.MaxClockSkew))...)
	for i := range sub.Targets {
		wait.Go(func() {
			targets[i] = checkTarget(ctx, &sub.Targets[i], inStream(sub.Shape, tables), shards, copyWish{creates: sub.CreateTables})
		})
	}
	wait.Wait()
	return append(findings, slices.Concat(targets...)...)
}

func (c *shardCheck) existing(ctx context.Context, sh *control.Shard, rules *shape.Shape) {
	about := "shard " + sh.Name
	add := func(f ...Finding) {
		for _, one := range f {
			one.About = about
			c.findings = append(c.findings, one)
		}
	}
	db, err := open(ctx, sh.DSN)
	if err != nil {
		add(FaultOf("", err))
		return
	}
	defer db.hangUp()
	if c.id, err = db.identity(ctx); err != nil {
		add(FaultOf("", err))
		return
	}
	if c.id.system != sh.SystemID {
		add(faultf("", "correct the DSN; for a new server, cdcctl drop-subscription and create-subscription",
			"another server answers: its system identifier is %s, the subscription was made for %s", c.id.system, sh.SystemID))
		return
	}
	if c.offset, c.uncertainty, err = db.clock(ctx); err != nil {
		add(FaultOf("", err))
	}
	if c.tables, err = shardTables(ctx, db, &Spec{Publications: sh.Publications}); err != nil {
		add(FaultOf("", err))
	}
	if err := c.checkShape(ctx, db, about, rules); err != nil {
		add(FaultOf("", err))
	}
	s, err := db.slot(ctx, sh.Slot)
	if err != nil {
		add(FaultOf("", err))
	} else if faults := s.usable(sh.Slot); len(faults) > 0 {
		add(faults...)
	} else {
		add(Finding{Severity: Info, What: fmt.Sprintf("slot %q is there%s; its WAL is %s", sh.Slot, inUse(&s), s.status)})
	}
	there, err := db.publications(ctx, sh.Publications)
	if err != nil {
		add(FaultOf("", err))
		return
	}
	for _, p := range sh.Publications {
		if !slices.Contains(there, p) {
			add(faultf("", "create it again with the same name and tables; cdcctl drop-subscription and create-subscription if changes were made without it", "publication %q does not exist", p))
		}
	}
}

func checkStream(ctx context.Context, bus *control.Bus, sub *control.Subscription) []Finding {
	name := wire.StreamName(sub.Name)
	s, err := bus.JS.Stream(ctx, name)
	again := "restore it, or cdcctl drop-subscription " + sub.Name + " and create it again"
	switch {
	case errors.Is(err, natsjs.ErrStreamNotFound):
		return []Finding{faultf("stream "+name, again, "it is gone")}
	case err != nil:
		return []Finding{FaultOf("stream "+name, err)}
	case s.CachedInfo().Config.Metadata[wire.MetadataIncarnation] != sub.Incarnation:
		return []Finding{faultf("stream "+name, again, "it is another one than the subscription was made with")}
	}
	state := s.CachedInfo().State
	return []Finding{{Severity: Info, About: "stream " + name, What: fmt.Sprintf("%d messages, %d bytes", state.Msgs, state.Bytes)}}
}
