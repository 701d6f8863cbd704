package json

import (
	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// tableName is a table, on whatever shard.
type tableName struct{ schema, table string }

// place is where the rows of a table are published, from whatever shard and in whatever form.
type place struct {
	name     tableName
	routed   bool // tokens are where the rows go: it was asked whether they have another subject
	tokens   string
	head     []byte // "schema":"…","table":"…"
	messages int    // of the running transaction
}

// placeOf finds the place of a relation.
func (t *tables) placeOf(r *pipeline.Relation, head []byte) *place {
	name := tableName{r.Namespace, r.Name}
	p := t.places[name]
	if p == nil {
		if t.places == nil {
			t.places = map[tableName]*place{}
		}
		p = &place{name: name, tokens: wire.TableTokens(r.Namespace, r.Name), head: head}
		t.places[name] = p
	}
	return p
}

// bound begins anew when there are too many places. Not within a transaction: they count its messages.
func (t *tables) bound() {
	if len(t.places) >= output.RelationsMax {
		*t = tables{}
	}
}
