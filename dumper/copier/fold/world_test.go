package fold

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"shardcdc/pipeline"
)

// A world is one shard with one table, seen from outside: transactions with row locks, snapshots, a WAL, and the order in
// which a merge hands the fragments on. It knows rows as Go values; only at its border (message) they become pgoutput's bytes.

// row of the world. Id is its key; a table without a key does not show it.
type row struct{ id, v, big string }

// action is a change as it happened: was and is are whole rows.
type action struct {
	op      pipeline.Op
	was, is row
}

// transaction of the world. It holds its locks until it has ended.
type transaction struct {
	xid      uint64
	gid      string
	actions  []action
	prepared bool
	placed   bool // it has its place in the order
	done     bool // committed; it is visible once it has ended
}

// placed is what has a place in the order: a fragment, a mark.
type placed struct {
	tx   *transaction
	mark string
}

type world struct {
	keyed, full bool // the table has a key; its replica identity is FULL
	truncates   bool
	moves       int // one in so many updates gives another key
	relation    *pipeline.Relation

	xid     uint64                  // the next
	heap    map[string]row          // every row's latest version, committed or not
	locks   map[string]*transaction // of ids
	table   *transaction            // holds the table alone
	open    []*transaction          // that have not ended, in the order of their xids
	visible map[string]row          // what a snapshot sees now
	order   []placed
	serial  int
}

const ids = "abcdef"

func newWorld(t *rapid.T) *world {
	w := &world{
		keyed:     rapid.Bool().Draw(t, "keyed"),
		full:      rapid.Bool().Draw(t, "identity full"),
		truncates: rapid.Bool().Draw(t, "truncates"), moves: rapid.SampledFrom([]int{1, 4}).Draw(t, "moves in"),
		xid:  rapid.SampledFrom([]uint64{700, 1<<32 - 4, 7<<32 + 1<<31 - 4}).Draw(t, "first xid"),
		heap: map[string]row{}, locks: map[string]*transaction{}, visible: map[string]row{},
	}
	w.full = w.full || !w.keyed
	w.relation = describe(w.keyed, w.full)
	for _, id := range strings.Split(ids, "") {
		if rapid.Bool().Draw(t, "row "+id) {
			w.heap[id] = w.fresh(t, id)
		}
	}
	w.visible = maps.Clone(w.heap)
	return w
}

// describe makes the relation of a world's table: (id, v, big), or (v, big).
func describe(keyed, full bool) *pipeline.Relation {
	r := &pipeline.Relation{ID: 4711, Namespace: "public", Name: "t", Identity: 'd'}
	if full {
		r.Identity = 'f'
	}
	if keyed {
		r.Columns = append(r.Columns, pipeline.Column{Name: "id", Key: true, Type: 25, Modifier: -1})
	}
	r.Columns = append(r.Columns, pipeline.Column{Name: "v", Key: full, Type: 25, Modifier: -1}, pipeline.Column{Name: "big", Key: full, Type: 25, Modifier: -1})
	return r
}

func (w *world) followed() Table {
	if w.keyed {
		return Table{Schema: "public", Name: "t", Key: []string{"id"}}
	}
	return Table{Schema: "public", Name: "t"}
}

// fresh makes a row that no other is like; of a table without a key many are alike.
func (w *world) fresh(t *rapid.T, id string) row {
	w.serial++
	r := row{id, fmt.Sprint("v", w.serial), fmt.Sprint("big", w.serial)}
	if !w.keyed {
		r.v, r.big = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "v"), rapid.SampledFrom([]string{"p", "q"}).Draw(t, "big")
	}
	return r
}

func (w *world) begin() *transaction {
	tx := &transaction{xid: w.xid}
	w.xid++
	w.open = append(w.open, tx)
	return tx
}

// writable are transactions that may change something.
func (w *world) writable() (all []*transaction) {
	for _, tx := range w.open {
		if !tx.prepared && !tx.done {
			all = append(all, tx)
		}
	}
	return all
}

// free says whether the transaction may change the rows; it locks them then.
func (w *world) free(tx *transaction, names ...string) bool {
	if w.table != nil && w.table != tx {
		return false
	}
	for _, id := range names {
		if o := w.locks[id]; o != nil && o != tx {
			return false
		}
	}
	for _, id := range names {
		w.locks[id] = tx
	}
	return true
}

// write lets a transaction change something, if its locks allow.
func (w *world) write(t *rapid.T, tx *transaction) {
	id := rapid.SampledFrom(strings.Split(ids, "")).Draw(t, "id")
	was, there := w.heap[id]
	if w.truncates && rapid.IntRange(0, 19).Draw(t, "truncate") == 0 {
		w.truncate(tx)
		return
	}
	switch {
	case !there:
		if w.free(tx, id) {
			w.do(tx, action{pipeline.Insert, row{}, w.fresh(t, id)})
		}
	case rapid.IntRange(0, 3).Draw(t, "delete") == 0:
		if w.free(tx, id) {
			w.do(tx, action{pipeline.Delete, was, row{}})
		}
	default:
		is := w.fresh(t, id)
		if rapid.Bool().Draw(t, "big stays") {
			is.big = was.big
		}
		if rapid.IntRange(1, w.moves).Draw(t, "moves") == 1 {
			to := rapid.SampledFrom(strings.Split(ids, "")).Draw(t, "to")
			if _, taken := w.heap[to]; !taken {
				is.id = to
			}
		}
		if w.free(tx, id, is.id) {
			w.do(tx, action{pipeline.Update, was, is})
		}
	}
}

func (w *world) truncate(tx *transaction) {
	for _, o := range w.locks {
		if o != tx {
			return
		}
	}
	if w.free(tx) {
		w.table = tx
		w.do(tx, action{op: pipeline.Truncate})
	}
}

func (w *world) do(tx *transaction, a action) {
	tx.actions = append(tx.actions, a)
	play(w.heap, a)
}

// play does an action exactly.
func play(rows map[string]row, a action) {
	switch a.op {
	case pipeline.Insert:
		rows[a.is.id] = a.is
	case pipeline.Update:
		delete(rows, a.was.id)
		rows[a.is.id] = a.is
	case pipeline.Delete:
		delete(rows, a.was.id)
	case pipeline.Truncate:
		clear(rows)
	}
}

// commit writes the commit record of a one-phase transaction, which is its place.
func (w *world) commit(tx *transaction) {
	tx.done = true
	w.place(tx)
}

// place gives a transaction its place in the order: of a two-phase one at some time between its PREPARE and its COMMIT PREPARED.
func (w *world) place(tx *transaction) {
	tx.placed = true
	if len(tx.actions) > 0 {
		w.order = append(w.order, placed{tx: tx})
	}
}

// end makes a committed transaction visible, and lets its locks go.
func (w *world) end(tx *transaction) {
	for _, a := range tx.actions {
		play(w.visible, a)
	}
	if w.table == tx {
		w.table = nil
	}
	maps.DeleteFunc(w.locks, func(_ string, o *transaction) bool { return o == tx })
	w.open = slices.DeleteFunc(w.open, func(o *transaction) bool { return o == tx })
}

// snapshot is what PostgreSQL would say now, and the rows. Transactions that have ended are committed: none is rolled back.
func (w *world) snapshot() (Snapshot, map[string]row) {
	s := Snapshot{XMin: w.xid, XMax: 1}
	if len(w.open) > 0 {
		s.XMin = w.open[0].xid
	}
	// XMax is behind the latest that has ended, not behind the latest that has begun.
	open := map[uint64]bool{}
	for _, tx := range w.open {
		open[tx.xid] = true
	}
	for x := w.xid - 1; s.XMax == 1; x-- {
		if !open[x] {
			s.XMax = x + 1
		}
	}
	s.XMin = min(s.XMin, s.XMax)
	for _, tx := range w.open {
		if tx.xid < s.XMax {
			s.Running = append(s.Running, tx.xid)
		}
	}
	parsed, err := ParseSnapshot(s.String())
	if err != nil {
		panic(err)
	}
	return parsed, maps.Clone(w.visible)
}

// values of a row as pgoutput would send it; was: the row before, if big may be unchanged.
func (w *world) values(r row, was *row) []pipeline.Value {
	text := func(s string) pipeline.Value { return pipeline.Value{Kind: pipeline.Text, Data: []byte(s)} }
	v := []pipeline.Value{text(r.v), text(r.big)}
	if was != nil && was.big == r.big {
		v[1] = pipeline.Value{Kind: pipeline.Unchanged}
	}
	if w.keyed {
		v = append([]pipeline.Value{text(r.id)}, v...)
	}
	return v
}

// message is an action in pgoutput's form.
func (w *world) message(a action) []byte {
	id := w.relation.ID
	msg := appendLength([]byte{byte(a.op)}, int(id))
	old := func() {
		switch {
		case w.full:
			msg = append(append(msg, 'O'), appendTuple(nil, w.values(a.was, nil))...)
		case a.op == pipeline.Delete || a.was.id != a.is.id:
			msg = append(append(msg, 'K'), appendTuple(nil, []pipeline.Value{{Kind: pipeline.Text, Data: []byte(a.was.id)}, {Kind: pipeline.Null}, {Kind: pipeline.Null}})...)
		}
	}
	switch a.op {
	case pipeline.Insert, pipeline.Read:
		return append(append(msg, 'N'), appendTuple(nil, w.values(a.is, nil))...)
	case pipeline.Update:
		old()
		return append(append(msg, 'N'), appendTuple(nil, w.values(a.is, &a.was))...)
	case pipeline.Delete:
		old()
		return msg
	case pipeline.Truncate:
		return appendLength(append(appendLength([]byte{'T'}, 1), 0), int(id))
	}
	panic(a.op)
}

func (w *world) fragment(tx *transaction) *pipeline.Fragment {
	f := &pipeline.Fragment{XID: pipeline.XID(tx.xid), GID: tx.gid, Relations: []pipeline.RelationUse{{Relation: w.relation}}}
	for _, a := range tx.actions {
		f.Append(w.message(a))
	}
	return f
}

// chunk reads rows with the ids that are asked for.
func (w *world) chunk(id string, rows map[string]row, in func(id string) bool) *Chunk {
	c := &Chunk{ID: id, Table: w.followed(), Relation: w.relation}
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		if !in(key) {
			continue
		}
		msg := w.message(action{op: pipeline.Read, is: rows[key]})
		c.Body = append(appendLength(c.Body, len(msg)), msg...)
		c.Rows++
	}
	return c
}

// shown is what a person sees of rows: of a table without a key, no ids.
func (w *world) shown(rows map[string]row) string {
	var all []string
	for _, r := range rows {
		if !w.keyed {
			r.id = ""
		}
		all = append(all, fmt.Sprint(r))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// elsewhere is a content in memory, which gives a few bytes at a time.
type elsewhere struct {
	b        []byte
	step     int
	released bool
}

func (e *elsewhere) Size() int64 { return int64(len(e.b)) }
func (e *elsewhere) Release()    { e.released = true }
func (e *elsewhere) Open() (io.ReadCloser, error) {
	if e.released {
		return nil, fmt.Errorf("released")
	}
	return io.NopCloser(&slow{e.b, max(1, e.step)}), nil
}

type slow struct {
	b    []byte
	step int
}

func (s *slow) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.step)], s.b)
	s.b = s.b[n:]
	return n, nil
}
