package json

import (
	"bytes"
	"slices"
	"strconv"

	"shardcdc/output"
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
	if *t == nil || len(*t) >= output.RelationsMax {
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
func (n news) of(fragment int) int { return len(n.in(fragment)) }

// in are those that a fragment tells, in the order of their first use.
func (n news) in(fragment int) []*pipeline.Relation {
	if n == nil {
		return nil
	}
	return n[fragment]
}

// uses says whether a change is one of the table in this form.
func uses(c *pipeline.Change, r *pipeline.Relation) bool {
	return c.Relation == r || slices.Contains(c.Truncated, r)
}

// relation writes a table's description.
func (w *writer) relation(r *pipeline.Relation) error {
	t, err := w.tables.of(r)
	if err != nil {
		return err
	}
	w.buf = append(w.buf, `,"op":"relation",`...)
	w.buf = append(w.buf, t.head...)
	w.buf = append(w.buf, `,"identity":"`...)
	w.buf = append(w.buf, identityName(r.Identity)...)
	w.buf = append(w.buf, `","columns":[`...)
	for i, c := range r.Columns {
		w.comma(i)
		w.buf = append(w.buf, `{"name":`...)
		w.buf = append(w.buf, t.columns[i].quoted()...)
		if c.Key {
			w.buf = append(w.buf, `,"key":true`...)
		}
		if name := pgtype.Name(r, c.Type); name != "" {
			w.buf = append(w.buf, `,"type":`...)
			w.buf = appendText(w.buf, []byte(name))
		}
		w.buf = append(w.buf, `,"type_oid":`...)
		w.buf = strconv.AppendUint(w.buf, uint64(c.Type), 10)
		if c.Modifier >= 0 {
			w.buf = append(w.buf, `,"modifier":`...)
			w.buf = strconv.AppendInt(w.buf, int64(c.Modifier), 10)
		}
		w.buf = append(w.buf, '}')
	}
	w.buf = append(w.buf, ']')
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

// appendTypes writes the types of a row's columns; one that has no name here is left out.
func appendTypes(dst []byte, r *pipeline.Relation, columns []column) []byte {
	dst = append(dst, `,"types":{`...)
	first := true
	for i, c := range r.Columns {
		name := pgtype.Name(r, c.Type)
		if name == "" {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(dst, columns[i].quoted()...), ':')
		dst = appendText(dst, []byte(name))
	}
	return append(dst, '}')
}
