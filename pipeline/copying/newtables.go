package copying

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"shardcdc/dumper"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/mark"
)

// watchNewTables looks now and then for tables that match the subscription's patterns and are not published: they are shown,
// or join by themselves.
func (e *Engine) watchNewTables(ctx context.Context) error {
	sub := e.conf.Sub
	if len(sub.Tables) == 0 || slices.ContainsFunc(sub.Shards, func(s control.Shard) bool { return !s.OwnPublication }) {
		return nil // whoever made the publications says what is in them
	}
	tick := time.NewTicker(e.conf.NewTablesEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := e.findNewTables(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // nobody depends on it; shards that cannot be reached are shown elsewhere
			e.conf.Log.Debug("cannot look for new tables", "error", err)
		}
	}
}

func (e *Engine) findNewTables(ctx context.Context) error {
	faults := map[control.CopyTableName]string{}
	for i := range e.conf.Sub.Shards {
		sh := &e.conf.Sub.Shards[i]
		found, err := dumper.FindUnpublished(ctx, sh.DSN, sh.Slot, sh.Publications, e.conf.Sub.Tables)
		if err != nil {
			return err
		}
		for _, t := range found {
			name := control.CopyTableName(t.TableName)
			if faults[name] == "" {
				faults[name] = t.Fault
			}
		}
	}
	jobs, err := e.conf.Copies.Jobs(ctx, e.conf.Sub.Name)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if !j.State.Ended() && j.Kind == control.CopyAdd {
			for _, t := range j.Tables {
				delete(faults, t) // it is joining
			}
		}
	}
	return e.reportNewTables(ctx, faults)
}

func (e *Engine) reportNewTables(ctx context.Context, faults map[control.CopyTableName]string) error {
	var shown []string
	var joining []control.CopyTableName
	for name, fault := range faults {
		switch {
		case fault != "":
			shown = append(shown, name.String()+": "+fault)
		case e.conf.Sub.FollowNewTables:
			joining = append(joining, name)
		default:
			shown = append(shown, name.String())
		}
	}
	slices.Sort(shown)
	e.mu.Lock()
	e.newTables = shown
	e.mu.Unlock()
	if len(joining) == 0 {
		return nil
	}
	slices.SortFunc(joining, func(a, b control.CopyTableName) int { return strings.Compare(a.String(), b.String()) })
	return e.orderJoining(ctx, joining)
}

// orderJoining orders the copy of tables that join by themselves. Their rows are written over those that targets hold; but a row
// without a key cannot be found again, so a table without one that another shard has published, and that targets therefore
// hold rows of, is copied anew from every shard.
func (e *Engine) orderJoining(ctx context.Context, joining []control.CopyTableName) error {
	again, err := e.heldWithoutKey(ctx, joining)
	if err != nil {
		return err
	}
	orders := map[string][]control.CopyTableName{}
	for _, name := range joining {
		rows := mark.TargetMerge
		if again[name] {
			rows = mark.TargetTruncate
		}
		orders[rows] = append(orders[rows], name)
	}
	for rows, tables := range orders {
		job := control.NewCopyJob(control.CopyAdd, tables, rows, "follow-new-tables")
		if err := e.conf.Copies.PutJob(ctx, e.conf.Sub.Name, job); err != nil && !errors.Is(err, control.ErrTaken) {
			return err
		}
	}
	return nil
}

// heldWithoutKey are those of the tables that some shard publishes, and that have no key on some shard.
func (e *Engine) heldWithoutKey(ctx context.Context, tables []control.CopyTableName) (map[control.CopyTableName]bool, error) {
	held, keyless := map[control.CopyTableName]bool{}, map[control.CopyTableName]bool{}
	wanted := &control.CopyJob{Kind: control.CopyAdd, Tables: tables}
	for i := range e.conf.Sub.Shards {
		published, err := e.lookPublished(ctx, i, wanted)
		if err != nil {
			return nil, err
		}
		for _, t := range published {
			held[t.name] = true
		}
		there, err := e.lookUnpublished(ctx, i, wanted)
		if err != nil {
			return nil, err
		}
		for _, t := range there {
			keyless[t.name] = keyless[t.name] || !t.keyed
		}
	}
	maps.DeleteFunc(held, func(name control.CopyTableName, _ bool) bool { return !keyless[name] })
	return held, nil
}
