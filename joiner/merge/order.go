package merge

import (
	"sort"

	"github.com/google/btree"

	"shardcdc/pipeline"
)

// order holds the placed transactions that wait, by CSN. What is placed above all others, as every commit is while one shard is
// read, stands in a line; what comes between them is in a B-tree. A CSN is in one of both at most.
type order struct {
	line fifo[*placed] // in rising CSN
	tree *btree.BTreeG[*placed]
	room []placed // not used yet
}

// placed is a transaction that has its CSN.
type placed struct {
	tx  pipeline.Transaction
	one [1]*pipeline.Fragment // backs tx.Fragments of a one-phase commit
	t   *txn                  // nil for a one-phase commit
}

// roomFor is how many transactions share an allocation. They leave in the order of their CSNs, so it is garbage soon after the
// first of them is.
const roomFor = 32

func newOrder() order {
	return order{tree: btree.NewG(32, func(a, b *placed) bool { return a.tx.CSN < b.tx.CSN })}
}

// make returns an empty one.
func (o *order) make() *placed {
	if len(o.room) == 0 {
		o.room = make([]placed, roomFor)
	}
	p := &o.room[0]
	o.room = o.room[1:]
	return p
}

// place takes p in, with its CSN or the next unused one.
func (o *order) place(p *placed) {
	for o.has(p) {
		p.tx.CSN++
	}
	if o.line.len() == 0 || p.tx.CSN > (*o.line.last()).tx.CSN {
		o.line.push(p)
	} else {
		o.tree.ReplaceOrInsert(p)
	}
}

// has says whether p's CSN is used.
func (o *order) has(p *placed) bool {
	if o.tree.Len() > 0 && o.tree.Has(p) {
		return true
	}
	if o.line.len() == 0 || p.tx.CSN > (*o.line.last()).tx.CSN {
		return false
	}
	line := o.line.items[o.line.head:]
	i := sort.Search(len(line), func(i int) bool { return line[i].tx.CSN >= p.tx.CSN })
	return line[i].tx.CSN == p.tx.CSN
}

func (o *order) len() int { return o.line.len() + o.tree.Len() }

// min is the lowest one; nil: none waits.
func (o *order) min() *placed {
	first, inTree := o.tree.Min()
	if o.line.len() == 0 || inTree && first.tx.CSN < (*o.line.first()).tx.CSN {
		return first
	}
	return *o.line.first()
}

// drop takes out p, which min returned.
func (o *order) drop(p *placed) {
	if o.line.len() > 0 && *o.line.first() == p {
		o.line.pop()
	} else {
		o.tree.DeleteMin()
	}
}

// max is the highest CSN; 0: none waits.
func (o *order) max() pipeline.CSN {
	top := pipeline.CSN(0)
	if p, ok := o.tree.Max(); ok {
		top = p.tx.CSN
	}
	if o.line.len() > 0 {
		top = max(top, (*o.line.last()).tx.CSN)
	}
	return top
}

// upTo counts those with w or a lower CSN, but no more than enough.
func (o *order) upTo(w pipeline.CSN, enough int) int {
	n := 0
	for i := o.line.head; i < len(o.line.items) && n < enough && o.line.items[i].tx.CSN <= w; i++ {
		n++
	}
	o.tree.Ascend(func(p *placed) bool {
		if p.tx.CSN > w || n >= enough {
			return false
		}
		n++
		return true
	})
	return n
}
