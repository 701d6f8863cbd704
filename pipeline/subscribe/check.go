package subscribe

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"shardcdc/dumper"
	"shardcdc/pipeline/control"
)

// Check looks at everything that a subscription of this kind needs and changes nothing: NATS (bus may be nil: not looked
// at), every shard, the shards' clocks, every target. The findings come in this order, all of them at once.
func Check(ctx context.Context, bus *control.Bus, spec Spec) []Finding {
	spec = spec.withDefaults()
	shards := make([]shardCheck, len(spec.Shards))
	targets := make([][]Finding, len(spec.Targets))
	var findings []Finding
	var wait sync.WaitGroup
	for i := range spec.Shards {
		wait.Go(func() { shards[i].run(ctx, &spec, spec.Shards[i]) })
	}
	if bus != nil {
		findings = checkNATS(ctx, bus)
	}
	wait.Wait()
	for i := range shards {
		findings = append(findings, shards[i].findings...)
	}
	tables := published(shards)
	wish := spec.copyWish()
	if wish.copies() {
		findings = append(findings, keyless(tables)...)
	}
	findings = append(findings, shapeNames(spec.Shape, tables, true)...)
	same := twins(spec.Shards, shards)
	findings = append(findings, same...)
	if wish.copies() && len(same) == 0 {
		findings = append(findings, sharedKeys(ctx, spec.keyed(shards), sharedKeysSeverity(spec.Format.Name, len(spec.Targets)), spec.onceOnly)...)
	}
	findings = append(findings, clocks(spec.Shards, shards, spec.MaxClockSkew)...)
	for i := range spec.Targets {
		wait.Go(func() { targets[i] = checkTarget(ctx, &spec.Targets[i], inStream(spec.Shape, tables), shards, wish) })
	}
	wait.Wait()
	findings = append(findings, FollowNotes(spec.FollowNewTables, spec.CreateTables, spec.DDL, spec.Targets)...)
	for _, t := range targets {
		findings = append(findings, t...)
	}
	return findings
}

// copyWish is what the copy needs looked at.
func (s *Spec) copyWish() copyWish {
	if !s.CopyData {
		return copyWish{creates: s.CreateTables}
	}
	return copyWish{creates: s.CreateTables, targetRows: s.TargetRows, otherwise: orNoCopy}
}

// keyed are the shards with the tables that were found on them.
func (s *Spec) keyed(shards []shardCheck) []keyed {
	all := make([]keyed, len(shards))
	for i, sh := range s.Shards {
		all[i] = keyed{name: sh.Name, dsn: sh.DSN, publications: s.Publications, tables: shards[i].tables}
	}
	return all
}

// onceOnly says how a table with the same rows on every shard is copied once.
func (s *Spec) onceOnly(t table) string {
	if len(s.Publications) > 0 {
		return "a publication that holds it on one shard only"
	}
	return "--tables '" + strings.Join(s.Tables, ",") + ",-" + t.plain() + "', and a second subscription for it, of one shard"
}

// FollowNotes are about tables that join a subscription by themselves: nobody looked whether a target has them.
func FollowNotes(follow, creates bool, ddl string, targets []control.Target) Notes {
	if !follow || creates || ddl == control.DDLCapture || len(targets) == 0 {
		return nil
	}
	return Notes{{
		Severity: Warning, About: "new tables", What: "a new table joins by itself, and a target that does not have it stops until it is created there",
		Try: "create tables on the targets before the shards, or --ddl capture or --create-tables, which create them there",
	}}
}

// shardCheck is what a look at one shard gave.
type shardCheck struct {
	findings            []Finding
	id                  identity // zero: the shard was not reached
	tables              []table
	offset, uncertainty time.Duration
}

func (c *shardCheck) run(ctx context.Context, spec *Spec, shard Shard) {
	about := "shard " + shard.Name
	fault := func(err error) { c.findings = append(c.findings, FaultOf(about, err)) }
	db, err := open(ctx, shard.DSN)
	if err != nil {
		fault(err)
		return
	}
	defer db.hangUp()
	if c.id, err = db.identity(ctx); err != nil {
		fault(err)
		return
	}
	if c.offset, c.uncertainty, err = db.clock(ctx); err != nil {
		fault(err)
	}
	if c.tables, err = shardTables(ctx, db, spec); err != nil {
		fault(err)
		return
	}
	looked, err := dumper.Check(ctx, dumper.CheckSpec{DSN: shard.DSN, Tables: spec.Tables, Publications: spec.Publications})
	for _, f := range looked {
		c.findings = append(c.findings, Finding{Severity: severity(f.Severity), About: about, What: f.What, Try: f.Try})
	}
	if err != nil {
		fault(err)
	}
	if err := c.checkShape(ctx, db, about, spec.Shape); err != nil {
		fault(err)
	}
	if wish := spec.copyWish(); wish.copies() {
		if err := c.checkCopyable(ctx, db, shard.DSN, about, wish); err != nil {
			fault(err)
		}
	}
	if spec.DDL != control.DDLIgnore {
		role, err := checkDDLRole(ctx, db)
		for _, f := range role {
			f.About = about
			c.findings = append(c.findings, f)
		}
		if err != nil {
			fault(err)
		}
	}
	names, err := checkNames(ctx, db, spec, shard.Name)
	for _, f := range names {
		f.About = about
		c.findings = append(c.findings, f)
	}
	if err != nil {
		fault(err)
	}
}

func severity(s dumper.Severity) Severity {
	switch s {
	case dumper.OK:
		return Info
	case dumper.Warning:
		return Warning
	}
	return Error
}

// twins finds shards that are one database: everything would arrive twice.
func twins(names []Shard, shards []shardCheck) (findings []Finding) {
	first := map[identity]string{}
	for i, s := range shards {
		if s.id == (identity{}) {
			continue
		}
		if other, found := first[s.id]; found {
			findings = append(findings, faultf("shard "+names[i].Name, "give each --shard a database of its own",
				"it is the same database as shard %s (system identifier %s, database %s)", other, s.id.system, s.id.name))
			continue
		}
		first[s.id] = names[i].Name
	}
	return findings
}

// clocks compares the shards' clocks, of which the merge expects that they agree.
func clocks(names []Shard, shards []shardCheck, skewMax time.Duration) (findings []Finding) {
	low, high := -1, -1
	for i, s := range shards {
		if s.uncertainty == 0 {
			continue
		}
		if low < 0 || s.offset < shards[low].offset {
			low = i
		}
		if high < 0 || s.offset > shards[high].offset {
			high = i
		}
	}
	if low == high {
		return nil
	}
	apart := shards[high].offset - shards[low].offset
	doubt := shards[high].uncertainty + shards[low].uncertainty
	what := fmt.Sprintf("shard %s is %s ahead of shard %s (± %s)", names[high].Name, round(apart), names[low].Name, round(doubt))
	switch {
	case apart-doubt > skewMax:
		return []Finding{faultf("clocks", "synchronise the clocks (NTP), or --max-clock-skew with a larger value", "%s, more than max_clock_skew %s", what, skewMax)}
	case apart-doubt > skewMax/2:
		return []Finding{{Severity: Warning, About: "clocks", What: fmt.Sprintf("%s; at max_clock_skew %s the subscription stops", what, skewMax), Try: "synchronise the clocks (NTP)"}}
	}
	return []Finding{{Severity: Info, About: "clocks", What: what}}
}

func round(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
