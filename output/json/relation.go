package json

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"shardcdc/pipeline"
	"shardcdc/pipeline/pgtype"
)

// What tables look like is told in the stream, where readers need it: in front of the first change of a table, and again
// where its description changed, for each shard, since shards change their tables one after the other. What an encoder told
// it remembers, so a new one (another node, a restart) tells everything again.

// relationKey is a table of a shard.
type relationKey struct {
	shard pipeline.ShardID
	id    uint32
}

// told are the descriptions that readers know; at the limit it forgets, and tells again.
type told map[relationKey]*pipeline.Relation

// news are the descriptions that a transaction tells: of each fragment, those that are to come.
type news [][]*pipeline.Relation

// news finds out what a transaction has to tell, and takes it for told.
func (t *told) news(tx *pipeline.Transaction) (all news) {
	if *t == nil || len(*t) >= tablesMax {
		*t = told{}
	}
	for n, f := range tx.Fragments {
		for _, use := range f.Relations {
			key, r := relationKey{f.Shard, use.Relation.ID}, use.Relation
			if known := (*t)[key]; known != nil && (known == r || sameTable(known, r)) {
				continue
			}
			(*t)[key] = r
			if all == nil {
				all = make(news, len(tx.Fragments))
			}
			all[n] = append(all[n], r)
		}
	}
	return all
}

func sameTable(a, b *pipeline.Relation) bool {
	return a.Raw != nil && bytes.Equal(a.Raw, b.Raw) && slices.Equal(a.Types, b.Types)
}

// total is how many there are.
func (n news) total() (total int) {
	for i := range n {
		total += len(n[i])
	}
	return total
}

// of is how many a fragment tells.
func (n news) of(fragment int) int {
	if n == nil {
		return 0
	}
	return len(n[fragment])
}

// describe writes the descriptions that stand in front of a change. pending are those of the fragment that are to come, in
// the order of their first use.
func (e *Encoder) describe(f *pipeline.Fragment, pending []*pipeline.Relation, c *pipeline.Change) (rest []*pipeline.Relation, err error) {
	for len(pending) > 0 && (c.Relation == pending[0] || slices.Contains(c.Truncated, pending[0])) {
		if err := e.relation(f, pending[0]); err != nil {
			return nil, err
		}
		pending = pending[1:]
	}
	return pending, nil
}

// relation writes a table's description.
func (e *Encoder) relation(f *pipeline.Fragment, r *pipeline.Relation) error {
	t, err := e.tables.of(r)
	if err != nil {
		return fmt.Errorf("shard %q: relation: %w", e.shards[f.Shard], err)
	}
	e.begin(f)
	e.buf = append(e.buf, `,"op":"relation",`...)
	e.buf = append(e.buf, t.head...)
	e.buf = append(e.buf, `,"identity":"`...)
	e.buf = append(e.buf, identityName(r.Identity)...)
	e.buf = append(e.buf, `","columns":[`...)
	for i, c := range r.Columns {
		e.comma(i)
		e.buf = append(e.buf, `{"name":`...)
		e.buf = append(e.buf, t.columns[i].quoted()...)
		if c.Key {
			e.buf = append(e.buf, `,"key":true`...)
		}
		if name := pgtype.Name(r, c.Type); name != "" {
			e.buf = append(e.buf, `,"type":`...)
			e.buf = appendText(e.buf, []byte(name))
		}
		e.buf = append(e.buf, `,"type_oid":`...)
		e.buf = strconv.AppendUint(e.buf, uint64(c.Type), 10)
		if c.Modifier >= 0 {
			e.buf = append(e.buf, `,"modifier":`...)
			e.buf = strconv.AppendInt(e.buf, int64(c.Modifier), 10)
		}
		e.buf = append(e.buf, '}')
	}
	e.buf = append(e.buf, `]}`...)
	return nil
}

func identityName(identity byte) string {
	switch identity {
	case 'n':
		return "nothing"
	case 'f':
		return "full"
	case 'i':
		return "index"
	}
	return "default"
}
