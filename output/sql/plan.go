package sql

import (
	"fmt"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/moves"
)

// plan is what has to be known of a transaction before its first statement.
type plan struct {
	before []byte // statements in front of BEGIN
	first  []byte // behind it
	order  order
	moved  moves.Moved
	ddl    map[string]*ran // statements that every shard ran in this transaction
	// leaveRows: the rows of this chunk are of a copy that another one has taken over.
	leaveRows bool
	keyedRows bool // they are of a table with a key
}

// ran says which shards ran a statement.
type ran struct {
	shards map[pipeline.ShardID]bool
	at     [2]int // fragment and place of the first one
}

// prepare makes the plan of a transaction, and remembers what it says about later ones.
func (e *Encoder) prepare(tx *pipeline.Transaction, previous pipeline.CSN) (*plan, error) {
	if tx.CSN <= previous {
		return nil, fmt.Errorf("it follows csn %s: CSNs must rise", previous)
	}
	p := &plan{}
	says, truncates := false, false
	for _, f := range tx.Fragments {
		if int(f.Shard) >= len(e.conf.Shards) {
			return nil, fmt.Errorf("fragment %s: the subscription has %d shards only", f, len(e.conf.Shards))
		}
		says = says || f.Ops.Has(pipeline.Message)
		truncates = truncates || f.Ops.Has(pipeline.Truncate)
	}
	if e.conf.Options.CreateTables {
		if err := e.create(p, tx); err != nil {
			return nil, err
		}
	}
	if says {
		if err := e.marks(p, tx); err != nil {
			return nil, err
		}
	}
	if truncates {
		if err := e.truncates(p, tx); err != nil {
			return nil, err
		}
	}
	return p, e.moves(p, tx)
}

// create makes the tables that the transaction is the first to use.
func (e *Encoder) create(p *plan, tx *pipeline.Transaction) error {
	if len(e.created) > output.RelationsMax {
		clear(e.created)
	}
	to := &p.first
	if e.dialect.createsBefore() {
		to = &p.before
	}
	for _, f := range tx.Fragments {
		for _, use := range f.Relations {
			t, err := e.tables.of(use.Relation)
			if err != nil {
				return err
			}
			if e.created[t.name] {
				continue
			}
			e.created[t.name] = true
			made, err := e.dialect.create(nil, use.Relation)
			if err != nil {
				p.first = e.raise(p.first, err.Error())
				continue
			}
			*to = append(append(*to, made...), ";\n"...)
		}
	}
	return nil
}

// marks reads what shardcdc itself says in the transaction.
func (e *Encoder) marks(p *plan, tx *pipeline.Transaction) error {
	for n, f := range tx.Fragments {
		if !f.Ops.Has(pipeline.Message) {
			continue
		}
		i := -1
		err := e.walker.Walk(f, func(c *pipeline.Change) error {
			i++
			m, ok, err := mark.CopyOf(c)
			if ok && err == nil {
				if err := e.copies.follow(e, p, f.Shard, &m); err != nil {
					return err
				}
			}
			if ok && err != nil {
				p.first = e.raise(p.first, err.Error())
			}
			d, ok, err := mark.DDLOf(c)
			if ok && err == nil {
				p.ran(&d, f.Shard, n, i)
			}
			if ok && err != nil {
				p.first = e.raise(p.first, err.Error())
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
