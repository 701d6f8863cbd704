// Package schedule decides which groups of transactions may run at the same time. It is pure: no goroutine, clock or I/O.
//
//	s := schedule.New(8)
//	for {
//	    for there is work && !s.Full() {
//	        id := s.Add(keys of the next group, in the order of the stream)
//	    }
//	    for id, ok := s.Next(); ok; id, ok = s.Next() {
//	        start group id
//	    }
//	    id := wait until a group has committed
//	    s.Done(id)
//	}
//
// A key is whatever two groups must not touch at the same time: a row, a value of a unique index, a table. Many groups may hold a
// key shared; one that holds it exclusively is alone with it. A table's key is taken shared by whoever changes rows of which it
// knows the keys, and exclusively by whoever does not, so tables and rows need no other relation to each other.
//
// Invariants:
//
//  1. While a group runs, no other group runs that holds one of its keys unless both hold it shared.
//  2. Of two groups that must not run together, the one that was added first runs first.
//  3. The first group that is not done has started, or Next gives it: nothing stalls.
//
// Keys are known by a hash. Two that share one only keep groups apart without need.
//
// Commits in order are not its matter: a group may start long before its turn to commit comes.
package schedule

import (
	"fmt"
	"math/bits"
)

// Key is something that a group touches.
type Key struct {
	Hash      uint64
	Exclusive bool
}

// ID numbers groups in the order of Add, from 0.
type ID uint64

// GroupsMax is the most groups that a Schedule can hold: it keeps a bit for each.
const GroupsMax = 64

// Schedule holds groups from Add to Done. Not for concurrent use. Its memory is that of the keys of the groups in it, at
// their most, and is used again.
type Schedule struct {
	limit int
	next  ID // to be given by Add
	slots [GroupsMax]slot
	used  uint64 // bit: the slot holds a group
	ready uint64 // bit: the group has not started and nothing stands before it
	held  table
}

// slot is where a group is kept, with its bit in every mask.
type slot struct {
	id     ID
	before uint64 // groups that have to be done first
	hashes []uint64
}

// New makes a Schedule for so many groups at a time.
func New(groups int) *Schedule {
	if groups < 1 || groups > GroupsMax {
		panic(fmt.Sprintf("schedule: %d groups, want 1 to %d", groups, GroupsMax))
	}
	return &Schedule{limit: groups}
}

// Len is how many groups are not done.
func (s *Schedule) Len() int { return bits.OnesCount64(s.used) }

// Full says that Add has to wait for Done.
func (s *Schedule) Full() bool { return s.Len() >= s.limit }

// Add takes the next group. The keys are not kept; one may be among them several times.
func (s *Schedule) Add(keys []Key) ID {
	if s.Full() {
		panic("schedule: Add, but it is full")
	}
	at := bits.TrailingZeros64(^s.used)
	bit := uint64(1) << at
	g := &s.slots[at]
	g.id, g.before, g.hashes = s.next, 0, g.hashes[:0]
	s.next++
	s.used |= bit
	s.held.reserve(len(keys))
	for _, k := range keys {
		h := s.held.find(k.Hash)
		g.before |= h.exclusive
		if k.Exclusive {
			g.before |= h.shared
		}
		if (h.shared|h.exclusive)&bit == 0 {
			g.hashes = append(g.hashes, k.Hash)
		}
		if k.Exclusive {
			h.exclusive |= bit
		} else {
			h.shared |= bit
		}
	}
	if g.before &^= bit; g.before == 0 {
		s.ready |= bit
	}
	return g.id
}

// Next gives the first group that may start, and takes it as started.
func (s *Schedule) Next() (ID, bool) {
	first := -1
	for rest := s.ready; rest != 0; rest &= rest - 1 {
		at := bits.TrailingZeros64(rest)
		if first < 0 || s.slots[at].id < s.slots[first].id {
			first = at
		}
	}
	if first < 0 {
		return 0, false
	}
	s.ready &^= 1 << first
	return s.slots[first].id, true
}

// Done forgets a group that was started; those that waited for it may be ready now.
func (s *Schedule) Done(id ID) {
	at := s.find(id)
	bit := uint64(1) << at
	if s.slots[at].before|s.ready&bit != 0 {
		panic(fmt.Sprintf("schedule: group %d is done, but was not started", id))
	}
	for _, hash := range s.slots[at].hashes {
		s.held.drop(hash, bit)
	}
	s.used &^= bit
	for rest := s.used; rest != 0; rest &= rest - 1 {
		g := &s.slots[bits.TrailingZeros64(rest)]
		if g.before&bit == 0 {
			continue
		}
		if g.before &^= bit; g.before == 0 {
			s.ready |= rest & -rest
		}
	}
}

func (s *Schedule) find(id ID) int {
	for rest := s.used; rest != 0; rest &= rest - 1 {
		if at := bits.TrailingZeros64(rest); s.slots[at].id == id {
			return at
		}
	}
	panic(fmt.Sprintf("schedule: there is no group %d", id))
}
