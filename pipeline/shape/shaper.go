package shape

import (
	"errors"
	"fmt"

	"shardcdc/pipeline"
)

// Shaper applies a Shape to the batches of one stream, in their order. A nil Shaper leaves everything as it is. Not for concurrent use.
type Shaper struct {
	shape *Shape
	keys  map[string][]byte
	last  pipeline.CSN // of the last transaction in the stream
	// plans by version of a table; nil: it stays as it is.
	plans map[*pipeline.Relation]*plan
	work  rewriter
	names map[tableID][2]string   // at the source, of the tables that have rules
	taken map[[2]string][2]string // names in the stream: the names at the source
	// routes by the names in the stream, of tables that were seen: an encoder asks for no other.
	routes map[[2]string]string
}

// plansMax bounds the versions of tables that are remembered. They are few: this is for a source that makes tables all day.
const plansMax = 10_000

// New makes a Shaper. lookup (os.LookupEnv) finds the keys of hashes.
func New(s *Shape, lookup func(name string) (string, bool)) (*Shaper, error) {
	sh := &Shaper{shape: s, keys: map[string][]byte{}, plans: map[*pipeline.Relation]*plan{}, names: map[tableID][2]string{}, taken: map[[2]string][2]string{}, routes: map[[2]string]string{}}
	var errs []error
	for _, name := range s.Variables() {
		key, ok := lookup(name)
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("the shape hashes with the key ${%s}, which is not set. Try: set the environment variable %s for every cdcd that captures, to the same value", name, name))
		case len(key) < keyBytesMin:
			errs = append(errs, fmt.Errorf("the key in the environment variable %s has %d bytes, and less than %d can be guessed. Try: openssl rand -hex 32", name, len(key), keyBytesMin))
		}
		sh.keys[name] = []byte(key)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	sh.work.masker.keys = sh.keys
	return sh, nil
}

// Resume says what the last transaction in the stream is, before the first Apply; of a new stream it is 0.
func (s *Shaper) Resume(last pipeline.CSN) {
	if s != nil {
		s.last = last
	}
}

// Apply changes a batch into what the stream gets of it. A transaction of which nothing is left is not in the stream: its batch
// follows the last one that is (Previous, Checkpoint.Last), and its positions are in the checkpoint. What a fragment holds elsewhere
// (pipeline.Content) belongs to what took its place, or is released. After an error the batch must not be used.
func (s *Shaper) Apply(b *pipeline.Batch) error {
	if s == nil {
		return nil
	}
	left := make([]*pipeline.Transaction, 0, len(b.Transactions))
	for _, tx := range b.Transactions {
		out, err := s.transaction(tx)
		if err != nil {
			return fmt.Errorf("shape csn %s: %w", tx.CSN, err)
		}
		if out != nil {
			left = append(left, out)
		}
	}
	b.Previous, b.Transactions = s.last, left
	s.last = b.Last()
	b.Checkpoint.Last = s.last
	return nil
}

// transaction is what is left of one; nil: nothing.
func (s *Shaper) transaction(tx *pipeline.Transaction) (*pipeline.Transaction, error) {
	var left []*pipeline.Fragment
	changed := false
	for i, f := range tx.Fragments {
		out, err := s.fragment(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		if out != f && !changed {
			changed = true
			left = append(left, tx.Fragments[:i]...)
		}
		if changed && out != nil {
			left = append(left, out)
		}
	}
	switch {
	case !changed:
		return tx, nil
	case len(left) == 0:
		return nil, nil
	}
	out := *tx
	out.Fragments = left
	return &out, nil
}

// fragment is what is left of one: itself, when no rule has to do with it; nil: nothing.
func (s *Shaper) fragment(f *pipeline.Fragment) (*pipeline.Fragment, error) {
	plans, ruled, err := s.plansOf(f)
	if err != nil {
		return nil, err
	}
	if !ruled && s.shape.Rewrites() && f.Ops.Has(pipeline.Message) {
		ruled, err = s.marked(f)
	}
	switch {
	case err != nil:
		return nil, err
	case !ruled:
		return f, nil
	case f.Content != nil:
		return s.large(f, plans)
	}
	return s.resident(f, plans)
}

// plansOf finds the rules of a fragment's tables, one for each use.
func (s *Shaper) plansOf(f *pipeline.Fragment) (plans []*plan, ruled bool, err error) {
	for i, use := range f.Relations {
		p, known := s.plans[use.Relation]
		if !known {
			if p, err = s.plan(f.Shard, use.Relation); err != nil {
				return nil, false, err
			}
		}
		if p != nil && plans == nil {
			plans = make([]*plan, len(f.Relations))
		}
		if p != nil {
			plans[i] = p
		}
	}
	return plans, plans != nil, nil
}

func (s *Shaper) plan(shard pipeline.ShardID, r *pipeline.Relation) (p *plan, err error) {
	if err := s.named(shard, r); err != nil {
		return nil, err
	}
	if t := s.shape.Rule(r.Namespace, r.Name); t != nil {
		if p, err = t.bind(r); err != nil {
			return nil, fmt.Errorf("the rules do not fit the table any more: %w. Try: cdcctl drop-subscription, and create it again with rules that fit", err)
		}
		if t.Route != "" {
			s.routes[[2]string{p.to.Namespace, p.to.Name}] = t.Route
		}
	}
	if len(s.plans) >= plansMax {
		clear(s.plans)
		clear(s.taken)
	}
	s.plans[r] = p
	return p, nil
}

// resident rewrites a fragment in memory.
func (s *Shaper) resident(f *pipeline.Fragment, plans []*plan) (*pipeline.Fragment, error) {
	w := &s.work
	w.begin(s.shape, f, plans)
	w.out = make([]byte, 0, len(f.Body))
	rest, err := w.through(f.Body)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, errCutOff
	}
	body := w.out
	w.out = nil
	return w.fragment(body, nil), nil
}

// large rewrites a fragment that is not in memory whenever it is read.
func (s *Shaper) large(f *pipeline.Fragment, plans []*plan) (*pipeline.Fragment, error) {
	c := &content{of: f, shape: s.shape, plans: plans, keys: s.keys}
	w, size, err := c.measure()
	if err != nil {
		return nil, err
	}
	c.size = size
	out := w.fragment(nil, c)
	if out == nil {
		f.Content.Release()
	}
	return out, nil
}
