package output

import "shardcdc/pipeline"

// RelationsMax bounds the relations, or tables, that an encoder remembers something about.
const RelationsMax = 10_000

// Relations remembers what an encoder made of each relation, which is the same for all its rows: a relation is immutable, and a table
// that changed is another one. With RelationsMax of them it starts anew. The zero value is ready; it has one owner.
type Relations[T any] struct {
	made map[*pipeline.Relation]*T
	last *pipeline.Relation // rows of a table come together
	of   *T                 // what was made of last
}

// Of is what was made of r; it is made when r is not known.
func (s *Relations[T]) Of(r *pipeline.Relation, make func(*pipeline.Relation) (*T, error)) (*T, error) {
	if r == s.last {
		return s.of, nil
	}
	found := s.made[r]
	if found == nil {
		var err error
		if found, err = make(r); err != nil {
			return nil, err
		}
		if s.made == nil || len(s.made) >= RelationsMax {
			s.made = map[*pipeline.Relation]*T{}
		}
		s.made[r] = found
	}
	s.last, s.of = r, found
	return found, nil
}
