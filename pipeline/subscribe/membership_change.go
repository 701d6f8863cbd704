package subscribe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"shardcdc/dumper"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/pattern"
)

// AddTables lets tables join a subscription that is there:
//
//	check ─► the catalog's patterns ─► CopyData: the order to copy, which publishes the tables when their copy begins
//	                                └► else: ALTER PUBLICATION on every shard that has them
//
// It may be repeated after a failure.
func AddTables(ctx context.Context, bus *control.Bus, spec TablesSpec) (TablesChange, Notes, error) {
	if spec.TargetRows == "" {
		spec.TargetRows = mark.TargetFail
	}
	if err := checkTargetRows(spec.TargetRows); err != nil {
		return TablesChange{}, nil, err
	}
	c, err := change(ctx, bus, spec)
	if err != nil {
		return TablesChange{}, nil, err
	}
	if err := c.given("ADD", ", then cdcctl resync "+c.sub.Name+" --table …, which copies their rows"); err != nil {
		return TablesChange{}, nil, err
	}
	tables, err := c.joining()
	if err != nil {
		return TablesChange{}, nil, err
	}
	wish := copyWish{}
	if spec.CopyData {
		wish = copyWish{targetRows: spec.TargetRows, otherwise: orNoCopy}
	}
	notes, err := c.check(ctx, (*member).absent, false, wish)
	if err != nil {
		return TablesChange{}, notes, fmt.Errorf("tables cannot be added to subscription %s, nothing was changed: %w", c.sub.Name, err)
	}
	copies, err := control.OpenCopies(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return TablesChange{}, notes, err
	}
	if err := c.copying(ctx, copies, tables); err != nil {
		return TablesChange{}, notes, err
	}
	joining, err := c.remember(ctx)
	if err != nil {
		return TablesChange{}, notes, err
	}
	changed, err := c.catalog.Change(ctx, c.sub.Name, func(sub *control.Subscription) error {
		addRuled(sub, joining)
		return include(sub, tables)
	})
	if err == nil {
		err = InstallDDL(ctx, changed.Subscription)
	}
	if err != nil {
		return TablesChange{}, notes, err
	}
	if spec.CopyData {
		out, err := c.order(ctx, copies, control.CopyAdd, tables)
		return out, notes, err
	}
	err = c.each(func(i int) error {
		sh := &c.sub.Shards[i]
		return dumper.Publish(ctx, sh.DSN, sh.Slot, sh.Publications[0], tableNames(c.members[i].absent()))
	})
	return c.result(tables), notes, err
}

// absent are the tables that are meant and not published.
func (m *member) absent() []table {
	return slices.DeleteFunc(slices.Clone(m.meant), func(t table) bool { return has(m.published, t) })
}

// joining are the tables that are not published everywhere where they are. One that is named, and is, is an error.
func (c *changing) joining() ([]control.CopyTableName, error) {
	var meant, absent []table
	for i := range c.members {
		meant, absent = append(meant, c.members[i].meant...), append(absent, c.members[i].absent()...)
	}
	for i, p := range c.choice {
		found := func(t table) bool { return p.Match(t.schema, t.name) }
		switch {
		case p.Exclude:
		case !slices.ContainsFunc(meant, found):
			return nil, fmt.Errorf("%s matches no table on any shard. Try: correct the name, or create the table first", c.spec.Tables[i])
		case !slices.ContainsFunc(absent, found):
			return nil, fmt.Errorf("%s: subscription %s has it already. Try: cdcctl resync %s --table %s to copy it anew", c.spec.Tables[i], c.sub.Name, c.sub.Name, c.spec.Tables[i])
		}
	}
	return namesOf(absent), nil
}

func exactly(t control.CopyTableName) string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// include makes the patterns of a subscription choose the tables.
func include(sub *control.Subscription, tables []control.CopyTableName) error {
	for _, t := range tables {
		sub.Tables = slices.DeleteFunc(sub.Tables, func(text string) bool {
			p, err := pattern.Parse(text)
			return err == nil && p.Exclude && !p.Wild() && p.Match(t.Schema, t.Name)
		})
		s, err := parseSelection(sub.Tables)
		if err != nil {
			return err
		}
		for i, p := range s {
			if p.Exclude && p.Match(t.Schema, t.Name) {
				return fmt.Errorf("table %s is excluded by the pattern %s of subscription %s. Try: a subscription of its own for it", t, sub.Tables[i], sub.Name)
			}
		}
		if !s.chooses(table{schema: t.Schema, name: t.Name, permanent: true}) {
			sub.Tables = append(sub.Tables, exactly(t))
		}
	}
	return nil
}

// RemoveTables lets tables leave a subscription: their changes are not captured any more, a copy of them that runs is
// ended by its node. Rows on targets stay. It may be repeated after a failure.
func RemoveTables(ctx context.Context, bus *control.Bus, spec TablesSpec) (TablesChange, error) {
	c, err := change(ctx, bus, spec)
	if err != nil {
		return TablesChange{}, err
	}
	if err := c.given("DROP", ""); err != nil {
		return TablesChange{}, err
	}
	leaving, staying := c.leaving()
	copies, err := control.OpenCopies(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return TablesChange{}, err
	}
	tables, err := c.ordered(ctx, copies, namesOf(leaving))
	if err != nil {
		return TablesChange{}, err
	}
	switch {
	case len(tables) == 0:
		return TablesChange{}, fmt.Errorf("subscription %s has no table %s. Try: cdcctl list -o json, which shows its patterns", c.sub.Name, strings.Join(spec.Tables, ", "))
	case len(staying) == 0 && len(leaving) > 0:
		return TablesChange{}, fmt.Errorf("subscription %s would have no table left. Try: cdcctl drop-subscription %s", c.sub.Name, c.sub.Name)
	}
	changed, err := c.catalog.Change(ctx, c.sub.Name, func(sub *control.Subscription) error { return exclude(sub, tables) })
	if err == nil {
		err = InstallDDL(ctx, changed.Subscription)
	}
	if err != nil {
		return TablesChange{}, err
	}
	if err := c.withdraw(ctx, copies); err != nil {
		return TablesChange{}, err
	}
	err = c.each(func(i int) error {
		sh := &c.sub.Shards[i]
		return dumper.Withdraw(ctx, sh.DSN, sh.Slot, sh.Publications[0], tableNames(c.meantOf(&c.members[i])))
	})
	return c.result(tables), err
}

func (c *changing) chosen(t table) bool {
	t.permanent = true // a pattern may name what is published, whatever it is
	return c.choice.chooses(t)
}

// leaving are the published tables that are meant, of all shards; staying the others.
func (c *changing) leaving() (leaving, staying []table) {
	for _, m := range c.members {
		for _, t := range m.published {
			if c.chosen(t) {
				leaving = append(leaving, t)
			} else {
				staying = append(staying, t)
			}
		}
	}
	return leaving, staying
}

// meantOf are the published tables of a shard that are meant.
func (c *changing) meantOf(m *member) []table {
	return slices.DeleteFunc(slices.Clone(m.published), func(t table) bool { return !c.chosen(t) })
}

// ordered adds the tables that are meant and whose copy is ordered, so that they may not be published yet.
func (c *changing) ordered(ctx context.Context, copies *control.Copies, tables []control.CopyTableName) ([]control.CopyTableName, error) {
	jobs, err := copies.Jobs(ctx, c.sub.Name)
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		if j.Kind != control.CopyAdd || j.State.Ended() {
			continue
		}
		for _, t := range j.Tables {
			if c.chosen(table{schema: t.Schema, name: t.Name}) && !slices.Contains(tables, t) {
				tables = append(tables, t)
			}
		}
	}
	return tables, nil
}

// withdraw takes the tables out of the orders that nobody has begun. In one that has begun, the node ends what the
// patterns do not choose any more.
func (c *changing) withdraw(ctx context.Context, copies *control.Copies) error {
	jobs, err := copies.Jobs(ctx, c.sub.Name)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if j.State != control.CopyRequested || len(j.Tables) == 0 {
			continue
		}
		left := slices.DeleteFunc(slices.Clone(j.Tables), func(t control.CopyTableName) bool { return c.chosen(table{schema: t.Schema, name: t.Name}) })
		if len(left) == len(j.Tables) {
			continue
		}
		if j.Tables = left; len(left) == 0 {
			j.State = control.CopyCancelled
		}
		if err := copies.PutJob(ctx, c.sub.Name, &j); err != nil && !errors.Is(err, control.ErrTaken) { // taken: it has begun
			return err
		}
	}
	return nil
}

// exclude makes the patterns of a subscription leave the tables out.
func exclude(sub *control.Subscription, tables []control.CopyTableName) error {
	for _, t := range tables {
		sub.Tables = slices.DeleteFunc(sub.Tables, func(text string) bool {
			p, err := pattern.Parse(text)
			return err == nil && !p.Exclude && !p.Wild() && p.Match(t.Schema, t.Name)
		})
		s, err := parseSelection(sub.Tables)
		if err != nil {
			return err
		}
		if s.chooses(table{schema: t.Schema, name: t.Name, permanent: true}) {
			sub.Tables = append(sub.Tables, "-"+exactly(t))
		}
	}
	return nil
}

// Resync orders a new copy of tables that a subscription has.
func Resync(ctx context.Context, bus *control.Bus, spec TablesSpec) (TablesChange, Notes, error) {
	switch spec.TargetRows {
	case "":
		spec.TargetRows = mark.TargetTruncate
	case mark.TargetTruncate, mark.TargetMerge:
	default:
		return TablesChange{}, nil, fmt.Errorf("if_target_has_rows %q: a table that is copied anew has rows. Try: truncate or merge", spec.TargetRows)
	}
	c, err := change(ctx, bus, spec)
	if err != nil {
		return TablesChange{}, nil, err
	}
	again, _ := c.leaving()
	for i, p := range c.choice {
		if !p.Exclude && !slices.ContainsFunc(again, func(t table) bool { return p.Match(t.schema, t.name) }) {
			return TablesChange{}, nil, fmt.Errorf("subscription %s has no table %s. Try: cdcctl add-table %s %s", c.sub.Name, c.spec.Tables[i], c.sub.Name, c.spec.Tables[i])
		}
	}
	notes, err := c.check(ctx, c.meantOf, true, copyWish{targetRows: spec.TargetRows})
	if err != nil {
		return TablesChange{}, notes, fmt.Errorf("tables of subscription %s cannot be copied anew, nothing was changed: %w", c.sub.Name, err)
	}
	copies, err := control.OpenCopies(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return TablesChange{}, notes, err
	}
	tables := namesOf(again)
	if err := c.copying(ctx, copies, tables); err != nil {
		return TablesChange{}, notes, err
	}
	out, err := c.order(ctx, copies, control.CopyResync, tables)
	return out, notes, err
}
