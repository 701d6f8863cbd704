package subscribe

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"shardcdc/dumper"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pattern"
)

// TablesSpec names tables of a subscription that is there, and says what becomes of them.
type TablesSpec struct {
	Subscription string
	Tables       []string // patterns, as in Spec
	CopyData     bool     // AddTables: rows that are there are copied; else the tables join from now on
	TargetRows   string   // see Spec; of AddTables mark.TargetFail by default
	By           string   // user@host
}

// TablesChange is what became of tables.
type TablesChange struct {
	Subscription string                  `json:"subscription"`
	Tables       []control.CopyTableName `json:"tables"`
	Job          string                  `json:"job,omitempty"` // that copies them
}

// Names lists the tables.
func (c *TablesChange) Names() string {
	names := make([]string, len(c.Tables))
	for i, t := range c.Tables {
		names[i] = t.String()
	}
	return strings.Join(names, ", ")
}

// member is what a shard publishes for the subscription, and which of its tables the patterns mean.
type member struct{ published, meant []table }

// changing is a change of the tables of a subscription under way.
type changing struct {
	bus     *control.Bus
	catalog *control.Catalog
	spec    TablesSpec
	sub     *control.Subscription
	choice  selection
	members []member
}

func change(ctx context.Context, bus *control.Bus, spec TablesSpec) (*changing, error) {
	c := &changing{bus: bus, spec: spec}
	var faults Faults
	for _, text := range spec.Tables {
		p, err := pattern.Parse(text)
		if err != nil {
			faults = append(faults, FaultOf("", err))
		}
		c.choice = append(c.choice, p)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	if !slices.ContainsFunc(c.choice, func(p pattern.Pattern) bool { return !p.Exclude }) {
		return nil, fmt.Errorf("no table is named. Try: schema.table, or a pattern like app.order_*")
	}
	var err error
	if c.catalog, err = control.OpenCatalog(ctx, bus.JS, bus.Replicas); err != nil {
		return nil, err
	}
	e, err := c.catalog.Get(ctx, spec.Subscription)
	if err != nil {
		return nil, err
	}
	if c.sub = e.Subscription; c.sub.State == control.Dropping {
		return nil, fmt.Errorf("subscription %s is being dropped. Try: cdcctl drop-subscription %s, which goes on", c.sub.Name, c.sub.Name)
	}
	if err := c.sub.Captured(); err != nil {
		return nil, err
	}
	return c, c.look(ctx)
}

// look asks every shard what it publishes and which tables are meant.
func (c *changing) look(ctx context.Context) error {
	c.members = make([]member, len(c.sub.Shards))
	return c.each(func(i int) error {
		m, sh := &c.members[i], &c.sub.Shards[i]
		db, err := open(ctx, sh.DSN)
		if err != nil {
			return err
		}
		defer db.hangUp()
		if m.published, err = shardTables(ctx, db, &Spec{Publications: sh.Publications}); err != nil {
			return err
		}
		m.meant, err = shardTables(ctx, db, &Spec{Tables: c.spec.Tables})
		return err
	})
}

// each does something with every shard, at the same time.
func (c *changing) each(do func(i int) error) error {
	return parallel(len(c.members), func(i int) error {
		if err := do(i); err != nil {
			return fmt.Errorf("shard %s: %w", c.sub.Shards[i].Name, err)
		}
		return nil
	})
}

func namesOf(tables []table) (all []control.CopyTableName) {
	for _, t := range tables {
		if n := (control.CopyTableName{Schema: t.schema, Name: t.name}); !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b control.CopyTableName) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// has says whether a table, or one that it is a partition of, is among tables.
func has(tables []table, t table) bool {
	return slices.ContainsFunc(tables, func(p table) bool { return p.quoted() == t.quoted() || slices.Contains(t.above, p.quoted()) })
}

func (c *changing) result(tables []control.CopyTableName) TablesChange {
	return TablesChange{Subscription: c.sub.Name, Tables: tables}
}

// given is the error for tables of publications that are not ours.
func (c *changing) given(verb, after string) error {
	for _, sh := range c.sub.Shards {
		if !sh.OwnPublication {
			return fmt.Errorf("subscription %s uses publications that were given (%s), which only their owner changes. Try: ALTER PUBLICATION %s %s TABLE … on every shard%s",
				c.sub.Name, quoteAll(sh.Publications), pgx.Identifier{sh.Publications[0]}.Sanitize(), verb, after)
		}
	}
	return nil
}

// tableNames are tables as package dumper names them.
func tableNames(tables []table) []dumper.TableName {
	all := make([]dumper.TableName, len(tables))
	for i, t := range tables {
		all[i] = dumper.TableName{Schema: t.schema, Name: t.name}
	}
	return all
}

// copying is an error when a job that is not done copies one of the tables already.
func (c *changing) copying(ctx context.Context, copies *control.Copies, tables []control.CopyTableName) error {
	jobs, err := copies.Jobs(ctx, c.sub.Name)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if j.State.Ended() {
			continue
		}
		for _, t := range tables {
			if slices.Contains(j.Tables, t) || j.Kind == control.CopyInitial && len(j.Tables) == 0 {
				return fmt.Errorf("table %s is being copied already (%s, asked for by %s). Try: cdcctl status %s --watch, and again when it is done", t, j.Kind, j.By, c.sub.Name)
			}
		}
	}
	return nil
}

// order writes a job.
func (c *changing) order(ctx context.Context, copies *control.Copies, kind control.CopyKind, tables []control.CopyTableName) (TablesChange, error) {
	job := control.NewCopyJob(kind, tables, c.spec.TargetRows, c.spec.By)
	out := c.result(tables)
	if err := copies.PutJob(ctx, c.sub.Name, job); err != nil {
		return out, err
	}
	out.Job = job.ID
	return out, nil
}

// check looks whether the tables can be published (unless they are) and copied, on the shards and on the targets.
func (c *changing) check(ctx context.Context, pick func(*member) []table, published bool, wish copyWish) (Notes, error) {
	shards := make([]shardCheck, len(c.members))
	err := c.each(func(i int) error {
		sh, s, about := &c.sub.Shards[i], &shards[i], "shard "+c.sub.Shards[i].Name
		if s.tables = pick(&c.members[i]); len(s.tables) == 0 {
			return nil
		}
		if !published {
			quoted := make([]string, len(s.tables))
			for i, t := range s.tables {
				quoted[i] = t.quoted()
			}
			looked, err := dumper.CheckTables(ctx, sh.DSN, quoted)
			for _, f := range looked {
				s.findings = append(s.findings, Finding{Severity: severity(f.Severity), About: about, What: f.What, Try: f.Try})
			}
			if err != nil {
				return err
			}
		}
		if !wish.copies() && c.sub.Shape == nil {
			return nil
		}
		db, err := open(ctx, sh.DSN)
		if err != nil {
			return err
		}
		defer db.hangUp()
		if err := s.checkShape(ctx, db, about, c.sub.Shape); err != nil || !wish.copies() {
			return err
		}
		return s.checkCopyable(ctx, db, sh.DSN, about, wish)
	})
	if err != nil {
		return nil, err
	}
	findings := c.findings(ctx, shards, wish)
	if wish.copies() {
		shards, err := c.keyed(ctx, shards)
		if err != nil {
			return nil, err
		}
		findings = append(findings, sharedKeys(ctx, shards, sharedKeysSeverity(c.sub.Format, len(c.sub.Targets)), c.onceOnly)...)
	}
	return split(findings)
}

// keyed are the shards with those of the tables that each has, published already or not: a table may join on one shard after
// it did on others.
func (c *changing) keyed(ctx context.Context, shards []shardCheck) ([]keyed, error) {
	wanted, all := published(shards), make([]keyed, len(shards))
	err := c.each(func(i int) error {
		sh, k := &c.sub.Shards[i], &all[i]
		k.name, k.dsn, k.tables = sh.Name, sh.DSN, shards[i].tables
		if !sh.OwnPublication {
			k.publications = sh.Publications
		}
		held := slices.DeleteFunc(slices.Clone(c.members[i].published), func(t table) bool { return has(k.tables, t) || !has(wanted, t) })
		keys, err := dumper.FindKeys(ctx, sh.DSN, "check", tableNames(held))
		for _, t := range held {
			t.key = keys[dumper.TableName{Schema: t.schema, Name: t.name}]
			k.tables = append(k.tables, t)
		}
		return err
	})
	return all, err
}

// onceOnly says how a table with the same rows on every shard is copied once.
func (c *changing) onceOnly(t table) string {
	return "a second subscription for it, of one shard (cdcctl remove-table " + c.sub.Name + " " + t.plain() + " takes it out of this one)"
}

func (c *changing) findings(ctx context.Context, shards []shardCheck, wish copyWish) (findings []Finding) {
	for _, s := range shards {
		findings = append(findings, s.findings...)
	}
	tables := published(shards)
	if wish.copies() {
		findings = append(findings, keyless(tables)...)
	}
	together := slices.Clone(tables)
	for _, m := range c.members {
		together = append(together, m.published...)
	}
	findings = append(findings, shapeNames(c.sub.Shape, together, false)...)
	wish.creates = c.sub.CreateTables
	targets := make([][]Finding, len(c.sub.Targets))
	var wait sync.WaitGroup
	for i := range c.sub.Targets {
		wait.Go(func() { targets[i] = c.checkTarget(ctx, &c.sub.Targets[i], inStream(c.sub.Shape, tables), wish) })
	}
	wait.Wait()
	return append(findings, slices.Concat(targets...)...)
}

// checkTarget looks at a target, if it can be reached: the subscription is there, and its worker may reach it from elsewhere.
func (c *changing) checkTarget(ctx context.Context, t *control.Target, tables []table, wish copyWish) []Finding {
	if isMySQL(t) {
		return checkMySQL(ctx, t, tables, wish)
	}
	if isFolder(t) {
		return checkFolder("target "+t.Name, t)
	}
	db, err := open(ctx, t.DSN)
	if err == nil {
		defer db.hangUp()
		return lookAtTarget(ctx, db, "target "+t.Name, tables, nil, wish)
	}
	f := FaultOf("target "+t.Name, err)
	f.Severity = Warning
	f.What = "it could not be looked at (" + f.What + "); if it lacks one of the tables or a right, "
	if wish.copies() {
		f.What += "everything on it waits at the beginning of the copy until it has them"
	} else {
		f.What += "the first change that needs it waits until it has them"
	}
	return []Finding{f}
}
