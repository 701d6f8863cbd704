package pgoutput

import (
	"bytes"
	"slices"

	"shardcdc/pipeline"
)

// slab is where ordinary transactions are put together, one at a time. What one-phase commits need is cut out of pieces that many
// share, so that a small transaction costs no allocation. A piece is garbage when the last of them is; that is soon after the
// first, because one-phase commits of a shard are let go of in the order in which they came. A PREPARE may stay in doubt for
// days: it gets pieces of its own, of exactly its size, so that it keeps nothing else in memory.
type slab struct {
	fragments []pipeline.Fragment    // not used yet
	bodies    []byte                 // bodies up to len, room behind it
	uses      []pipeline.RelationUse // the same
	large     []byte                 // room for a body that is too large to share
	inLarge   bool                   // the body being written is there
	using     []pipeline.RelationUse // of the transaction being put together
}

const (
	slabFragments = 32
	slabUses      = 256
	slabBytes     = 256 << 10
	sharedMax     = slabBytes / 4 // a larger body is moved to large when the piece that it began in is full
	largeKeep     = 8 << 20       // a larger room is not kept for the next body
)

// begin is a new fragment; alone: it shares its memory with no other.
func (s *slab) begin(alone bool) *pipeline.Fragment {
	s.using, s.inLarge = s.using[:0], false
	if alone {
		return &pipeline.Fragment{}
	}
	if len(s.fragments) == 0 {
		s.fragments = make([]pipeline.Fragment, slabFragments)
	}
	f := &s.fragments[0]
	s.fragments = s.fragments[1:]
	return f
}

// grow moves the body being written to where there is room for need more bytes.
func (s *slab) grow(body []byte, need int) []byte {
	size := len(body) + need
	if s.inLarge = size > sharedMax; s.inLarge {
		if size > cap(s.large) {
			s.large = make([]byte, 0, size+room(len(body), size))
		}
		return append(s.large[:0], body...)
	}
	if size > cap(s.bodies)-len(s.bodies) {
		s.bodies = make([]byte, 0, slabBytes)
	}
	return append(s.bodies[len(s.bodies):], body...)
}

// end gives the fragment what was written for good; alone as in begin.
func (s *slab) end(f *pipeline.Fragment, alone bool) {
	n := len(f.Body)
	switch {
	case n == 0:
		f.Body = nil
	case s.inLarge && cap(s.large) > largeKeep:
		s.large = nil // it is the fragment's
	case s.inLarge || alone:
		f.Body = bytes.Clone(f.Body)
	default:
		s.bodies = s.bodies[:len(s.bodies)+n]
		f.Body = f.Body[:n:n]
	}
	f.Relations = s.cutUses(alone)
}

func (s *slab) cutUses(alone bool) []pipeline.RelationUse {
	n := len(s.using)
	switch {
	case n == 0:
		return nil
	case alone:
		return slices.Clone(s.using)
	case n > cap(s.uses)-len(s.uses):
		s.uses = make([]pipeline.RelationUse, 0, max(n, slabUses))
	}
	s.uses = append(s.uses, s.using...)
	to := len(s.uses)
	return s.uses[to-n : to : to]
}
