package verify

import (
	"context"
	"fmt"
	"slices"

	"shardcdc/pipeline"
)

// lookBack decides where the stream is to be read from: behind the target's first position, and further back when
// transactions before it may be invisible to the source's snapshot.
func (r *round) lookBack(ctx context.Context) error {
	r.after = r.first.seq
	if r.after == 0 {
		return nil
	}
	from, err := r.stream.endAt(ctx, r.first.seq)
	if err != nil {
		return err
	}
	if from == nil { // the target has it, so it may have left the stream
		if from, err = r.stream.first(ctx); err != nil {
			return err
		}
	}
	open, err := r.stream.open(ctx, from, len(r.c.shards))
	if err != nil {
		return err
	}
	since, is := r.unsettled(open)
	if !is {
		return nil
	}
	bound := pipeline.CSNAt(since.Add(-clockMargin))
	at, whole, err := r.stream.before(ctx, from.seq, bound)
	if err != nil {
		return err
	}
	r.after = min(r.after, at.seq)
	if !whole {
		return r.loses(ctx, at)
	}
	return nil
}

// unsettled is the earliest time that may be in the CSN of a transaction that is in the stream up to the first position,
// and that a shard's snapshot does not show.
func (r *round) unsettled(open []map[pipeline.XID]bool) (since pipeline.Timestamp, is bool) {
	take := func(at pipeline.Timestamp) {
		if !is || at < since {
			since, is = at, true
		}
	}
	for i, s := range r.samples {
		for _, p := range s.prepared {
			if open[i][p.xid] || p.committing {
				take(p.since)
			}
		}
		for _, a := range s.active {
			if !r.snapshot[i].shows(a.xid) {
				take(a.since)
			}
		}
	}
	return since, is
}

// loses names transactions that may have left the stream, whose first unit now ends at a place.
func (r *round) loses(ctx context.Context, at *unitEnd) error {
	open, err := r.stream.open(ctx, at, len(r.c.shards))
	if err != nil {
		return err
	}
	for i, s := range r.samples {
		for _, p := range s.prepared {
			if open[i][p.xid] && pipeline.CSNAt(p.since.Add(-clockMargin)) <= at.csn {
				r.lost = append(r.lost, fmt.Sprintf("prepared transaction %q is in doubt on shard %s, and what it changed may have left the stream. Try: COMMIT PREPARED %s there",
					p.gid, r.sub.Shards[i].Name, literal(p.gid)))
			}
		}
		for _, a := range s.active {
			if !r.snapshot[i].shows(a.xid) && pipeline.CSNAt(a.since.Add(-clockMargin)) <= at.csn {
				r.lost = append(r.lost, fmt.Sprintf("transaction %d on shard %s runs longer than the stream reaches back. Try: again when it has ended; GRANT pg_read_all_stats to the shard's role shows whether it is idle",
					a.xid, r.sub.Shards[i].Name))
			}
		}
	}
	return nil
}

// touchReader notes which suspects the fragments of the stream change.
type touchReader struct {
	r     *round
	ids   map[*pipeline.Relation][]int // where the identity's columns stand; nil: not all of them are there
	old   []pipeline.Value
	now   []pipeline.Value
	touch touch
}

func newTouchReader(r *round) *touchReader {
	return &touchReader{r: r, ids: map[*pipeline.Relation][]int{}}
}

// fragment notes what a fragment changes, if only one side can show it.
func (t *touchReader) fragment(csn pipeline.CSN, f *pipeline.Fragment) error {
	shard := int(f.Shard)
	if shard >= len(t.r.snapshot) {
		return fmt.Errorf("fragment %s: the subscription has %d shards", f, len(t.r.snapshot))
	}
	t.touch = touch{csn: csn, visible: t.r.snapshot[shard].shows(f.XID), shard: shard, xid: f.XID}
	if csn <= t.r.first.csn && t.touch.visible || csn > t.r.reached && !t.touch.visible {
		return nil // both sides always show it, or never
	}
	return f.Walk(t.change)
}

func (t *touchReader) change(c *pipeline.Change) error {
	switch c.Op {
	case pipeline.Insert, pipeline.Update, pipeline.Delete, pipeline.Read:
		name := tableName{c.Relation.Namespace, c.Relation.Name}
		if ids := t.r.g.by[name]; ids != nil {
			t.row(name, ids, c)
		}
	case pipeline.Truncate:
		for _, rel := range c.Truncated {
			t.all(t.r.g.by[tableName{rel.Namespace, rel.Name}])
		}
	case pipeline.Message:
	}
	return nil
}

func (t *touchReader) all(ids map[string]*suspect) {
	for _, s := range ids {
		t.one(s)
	}
}

func (t *touchReader) one(s *suspect) { s.touches = append(s.touches, t.touch) }

// row notes the row before and after the change. What cannot be read may be any row.
func (t *touchReader) row(name tableName, ids map[string]*suspect, c *pipeline.Change) {
	p := t.planOf(name)
	at := t.columns(p, c.Relation)
	t.old, t.now = c.Old.Values(t.old[:0]), c.New.Values(t.now[:0])
	whole := at != nil
	if c.New != nil && whole {
		whole = t.note(p, ids, t.now, at, c.Op == pipeline.Update)
	}
	switch {
	case !whole:
	case c.Old != nil && (c.OldKind == pipeline.OldFull || p.key != nil):
		whole = t.note(p, ids, t.old, at, false)
	case (c.Op == pipeline.Update || c.Op == pipeline.Delete) && p.key == nil:
		whole = false // another row was there, and nobody tells which
	}
	if !whole {
		t.all(ids)
	}
}

// note finds the suspect of a row; false: a value is missing. A large value that an update did not change stands in the
// old row, if that was sent.
func (t *touchReader) note(p *plan, ids map[string]*suspect, row []pipeline.Value, at []int, update bool) bool {
	values := make([]value, len(at))
	for i, c := range at {
		v := row[c]
		if v.Kind == pipeline.Unchanged && update && c < len(t.old) {
			v = t.old[c]
		}
		switch v.Kind {
		case pipeline.Null:
			values[i].null = true
		case pipeline.Text:
			values[i].text = string(v.Data)
		default:
			return false
		}
	}
	id := recordText(values)
	if p.key == nil {
		id = digest(id)
	}
	if s := ids[id]; s != nil {
		t.one(s)
	}
	return true
}

func (t *touchReader) planOf(name tableName) *plan {
	i := slices.IndexFunc(t.r.g.tables, func(p *plan) bool { return p.tableName == name })
	return t.r.g.tables[i]
}

// columns finds the identity's columns in a relation as it was sent.
func (t *touchReader) columns(p *plan, rel *pipeline.Relation) []int {
	if at, known := t.ids[rel]; known {
		return at
	}
	at := []int{}
	for _, name := range p.names(p.identity()) {
		i := slices.IndexFunc(rel.Columns, func(c pipeline.Column) bool { return c.Name == name })
		if i < 0 {
			at = nil
			break
		}
		at = append(at, i)
	}
	t.ids[rel] = at
	return at
}
