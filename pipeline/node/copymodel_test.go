package node

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/wire"
)

// replay is a reader of the stream, as simple as can be, that knows twice what the source has: truth follows every change of
// tables that were empty when the stream began; target does with copies what a target is to do. It is the oracle of copies:
// every row that is copied is, at its CSN, the row of truth; and at the end of a copy target is truth.
type replay struct {
	t      testing.TB
	exact  bool // the tables were empty when the stream began, so truth is known
	truth  content
	target content

	jobs     map[string]bool   // begun; false: ended
	copying  map[string]bool   // tables, now
	arrived  map[string]bool   // shard and table without a key: its rows came
	chunks   map[string]string // to the job
	keyless  map[string]bool
	rows     int // copied
	changes  int
	tables   []mark.Table
	ended    int
	lastUnit pipeline.CSN
	events   map[string][]string // of a row, by shard, table and key
	at       string
}

// content is rows by shard and table, then by key; of a table without a key each row is its own, and counted.
type content map[string]map[string]row

type row struct {
	values []string
	count  int
}

func newReplay(t testing.TB, exact bool, keyless ...string) *replay {
	r := &replay{t: t, exact: exact, truth: content{}, target: content{}, jobs: map[string]bool{}, copying: map[string]bool{}, arrived: map[string]bool{}, chunks: map[string]string{}, keyless: map[string]bool{}, events: map[string][]string{}}
	for _, k := range keyless {
		r.keyless[k] = true
	}
	return r
}

// replayed has a reader take all that was committed, and compares the tables on its target with those of the source.
func (c *copyRig) replayed(m *replay, tables ...string) *replay {
	c.t.Helper()
	c.captured()
	m.run(c.rig)
	m.source(c, tables...)
	return m
}

func (c content) of(shard pipeline.ShardID, table string) map[string]row {
	name := fmt.Sprint(shard, " ", table)
	if c[name] == nil {
		c[name] = map[string]row{}
	}
	return c[name]
}

// units feeds every complete unit of the stream to fn.
func (r *rig) units(fn func(*wire.Unit)) {
	r.t.Helper()
	stream, err := r.bus.JS.Stream(r.ctx, wire.StreamName(r.sub.Name))
	r.must(err)
	info, err := stream.Info(r.ctx)
	r.must(err)
	var parts bytes.Buffer
	var decoder wire.Decoder
	unit := ""
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(r.ctx, seq)
		r.must(err)
		if m.Subject != wire.Subject(r.sub.Name) {
			continue
		}
		if at := m.Header.Get(wire.HeaderEpoch) + "/" + m.Header.Get(wire.HeaderUnit); at != unit { // what is there is of a writer that died
			parts.Reset()
			unit = at
		}
		parts.Write(m.Data)
		if m.Header.Get(wire.HeaderCheckpoint) == "" {
			continue
		}
		u, err := decoder.DecodeUnit(bytes.Clone(parts.Bytes()))
		r.must(err)
		fn(u)
		parts.Reset()
	}
}

// run replays the whole stream.
func (m *replay) run(r *rig) {
	r.units(func(u *wire.Unit) {
		if u.Previous != m.lastUnit {
			m.t.Fatalf("a unit goes on behind csn %s, the one before ended at %s", u.Previous, m.lastUnit)
		}
		m.lastUnit = u.Last
		for _, tx := range u.Transactions {
			m.transaction(tx)
		}
	})
}

func (m *replay) transaction(tx *pipeline.Transaction) {
	for _, f := range tx.Fragments {
		at := fmt.Sprintf("csn %s, %s", tx.CSN, f)
		m.at = at
		var whole *mark.Copy // rows of a table without a key
		got := map[string]row{}
		err := f.Walk(func(c *pipeline.Change) error {
			if c.Op == pipeline.Message {
				if c, is, err := mark.CopyOf(c); is || err != nil {
					if c.Kind == mark.Rows && !c.Tables[0].Keyed {
						whole = &c
					}
					return m.mark(at, c, err)
				}
				return nil
			}
			if c.Op == pipeline.Read && whole != nil {
				add(got, text(c.New, nil), 1)
				m.rows++
				return nil
			}
			return m.change(at, f.Shard, c)
		})
		if err != nil {
			m.t.Fatalf("%s: %v", at, err)
		}
		if whole != nil {
			m.whole(at, f.Shard, whole.Tables[0].String(), got)
		}
	}
}

func (m *replay) mark(at string, c mark.Copy, err error) error {
	if err != nil {
		return err
	}
	switch c.Kind {
	case mark.Begin:
		if _, known := m.jobs[c.Job]; known {
			return nil
		}
		m.jobs[c.Job], m.tables = true, c.Tables
		for _, t := range c.Tables {
			m.begin(c, t)
		}
	case mark.Rows:
		if m.chunks[c.Chunk] != "" {
			return fmt.Errorf("chunk %s comes twice", c.Chunk)
		}
		m.chunks[c.Chunk] = c.Job
		if !m.jobs[c.Job] {
			return fmt.Errorf("rows of job %s, which has not begun", c.Job)
		}
	case mark.End:
		if !m.jobs[c.Job] {
			return nil
		}
		m.jobs[c.Job] = false
		m.ended++
		for _, t := range c.Tables {
			delete(m.copying, t.String())
			m.compare(at, t.String())
		}
	}
	return nil
}

func (m *replay) begin(c mark.Copy, t mark.Table) {
	m.copying[t.String()] = true
	if t.Keyed == m.keyless[t.String()] {
		m.t.Fatalf("table %s: keyed is %v", t, t.Keyed)
	}
	for name, rows := range m.target {
		if strings.HasSuffix(name, " "+t.String()) && c.TargetRows != mark.TargetMerge {
			clear(rows)
		}
	}
	for name := range m.arrived {
		if strings.HasSuffix(name, " "+t.String()) {
			delete(m.arrived, name)
		}
	}
}

// compare looks whether target is truth.
func (m *replay) compare(at, table string) {
	if !m.exact {
		return
	}
	for name, truth := range m.truth {
		if strings.HasSuffix(name, " "+table) {
			if d := difference(truth, m.target[name]); d != "" {
				m.t.Fatalf("%s: at the end mark the target's %s is not the source's (shard and table): %s", at, name, d)
			}
		}
	}
}

func difference(want, got map[string]row) string {
	var all []string
	for k, w := range want {
		if g, ok := got[k]; !ok || !slices.Equal(w.values, g.values) || w.count != g.count {
			all = append(all, fmt.Sprintf("%s is %.80q (%d), want %.80q (%d)", k, g.values, g.count, w.values, w.count))
		}
	}
	for k, g := range got {
		if _, ok := want[k]; !ok {
			all = append(all, fmt.Sprintf("%s is too much: %.80q", k, g.values))
		}
	}
	slices.Sort(all)
	if len(all) > 5 {
		all = append(all[:5], fmt.Sprintf("and %d more", len(all)-5))
	}
	return strings.Join(all, "; ")
}

// whole takes all rows of a table without a key.
func (m *replay) whole(at string, shard pipeline.ShardID, table string, got map[string]row) {
	if m.exact {
		if d := difference(m.truth.of(shard, table), got); d != "" {
			m.t.Fatalf("%s: the rows of %s are not what the shard has at this place: %s", at, table, d)
		}
	}
	m.arrived[fmt.Sprint(shard, " ", table)] = true
	rows := m.target.of(shard, table)
	clear(rows)
	maps.Copy(rows, got)
}

// text is the values of a tuple; those that did not change are in old.
func text(t pipeline.Tuple, old []string) []string {
	var out []string
	for i, v := range t.Values(nil) {
		switch {
		case v.Kind == pipeline.Null:
			out = append(out, "NULL")
		case v.Kind == pipeline.Unchanged && old == nil:
			out = append(out, "?") // a row that is not there
		case v.Kind == pipeline.Unchanged:
			out = append(out, old[i])
		default:
			out = append(out, "="+string(v.Data))
		}
	}
	return out
}

func add(rows map[string]row, values []string, n int) (left int) {
	key := strings.Join(values, "|")
	left = rows[key].count + n
	if left == 0 {
		delete(rows, key)
	} else {
		rows[key] = row{values, left}
	}
	return left
}

func keyOf(rel *pipeline.Relation, values []string) string {
	var key []string
	for i, c := range rel.Columns {
		if c.Key {
			key = append(key, values[i])
		}
	}
	return strings.Join(key, "|")
}

func (m *replay) change(at string, shard pipeline.ShardID, c *pipeline.Change) error {
	m.changes++
	if c.Op == pipeline.Truncate {
		for _, rel := range c.Truncated {
			clear(m.truth.of(shard, rel.String()))
			for key := range m.target.of(shard, rel.String()) {
				id := fmt.Sprint(shard, " ", rel, " ", key)
				m.events[id] = append(m.events[id], "truncate at "+m.at)
			}
			if !m.keyless[rel.String()] || !m.copying[rel.String()] || m.arrived[fmt.Sprint(shard, " ", rel)] {
				clear(m.target.of(shard, rel.String()))
			}
		}
		return nil
	}
	table := c.Relation.String()
	if m.keyless[table] {
		return m.keylessChange(shard, table, c)
	}
	truth, target := m.truth.of(shard, table), m.target.of(shard, table)
	for _, t := range []pipeline.Tuple{c.Old, c.New} {
		if t != nil {
			id := fmt.Sprint(shard, " ", table, " ", keyOf(c.Relation, text(t, nil)))
			m.events[id] = append(m.events[id], fmt.Sprintf("%s at %s", c.Op, m.at))
		}
	}
	if c.Op == pipeline.Read {
		return m.read(truth, target, c)
	}
	if m.exact {
		if err := keyedChange(truth, c, false); err != nil {
			return fmt.Errorf("truth: %w", err)
		}
	}
	if err := keyedChange(target, c, m.copying[table]); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	return nil
}

func (m *replay) read(truth, target map[string]row, c *pipeline.Change) error {
	m.rows++
	values := text(c.New, nil)
	key := keyOf(c.Relation, values)
	if m.exact && !slices.Equal(truth[key].values, values) {
		return fmt.Errorf("the row copied with key %s is %.200q, and at this place the shard has %.200q", key, values, truth[key].values)
	}
	target[key] = row{values, 1}
	return nil
}

// keyedChange applies a change; lenient says that rows may be missing.
func keyedChange(rows map[string]row, c *pipeline.Change, lenient bool) error {
	if c.Op == pipeline.Insert {
		values := text(c.New, nil)
		key := keyOf(c.Relation, values)
		if _, there := rows[key]; there && !lenient {
			return fmt.Errorf("insert of %s, which is there", key)
		}
		rows[key] = row{values, 1}
		return nil
	}
	old := c.Old
	if c.OldKind == pipeline.OldNone {
		old = c.New
	}
	key := keyOf(c.Relation, text(old, nil))
	was, there := rows[key]
	if !there {
		if lenient {
			return nil
		}
		return fmt.Errorf("%s of %s, which is not there", c.Op, key)
	}
	delete(rows, key)
	if c.Op == pipeline.Delete {
		return nil
	}
	values := text(c.New, was.values)
	next := keyOf(c.Relation, values)
	if _, there := rows[next]; there && !lenient {
		return fmt.Errorf("update of %s to %s, which is there", key, next)
	}
	rows[next] = row{values, 1}
	return nil
}

func (m *replay) keylessChange(shard pipeline.ShardID, table string, c *pipeline.Change) error {
	on := []map[string]row{}
	if m.exact {
		on = append(on, m.truth.of(shard, table))
	}
	if !m.copying[table] || m.arrived[fmt.Sprint(shard, " ", table)] {
		on = append(on, m.target.of(shard, table))
	}
	for _, rows := range on {
		if c.Old != nil && add(rows, text(c.Old, nil), -1) < 0 {
			return fmt.Errorf("%s of a row of %s that is not there: %.80q", c.Op, table, text(c.Old, nil))
		}
		if c.New != nil {
			old := []string(nil)
			if c.Old != nil {
				old = text(c.Old, nil)
			}
			add(rows, text(c.New, old), 1)
		}
	}
	return nil
}
