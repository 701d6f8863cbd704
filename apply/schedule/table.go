package schedule

import "math/bits"

// holders are the groups that hold a key; nobody's entry is free.
type holders struct {
	hash              uint64
	shared, exclusive uint64 // a bit for each group
}

func (h *holders) free() bool { return h.shared|h.exclusive == 0 }

// table finds the holders of a key: open addressing with linear probing. Entries that become free are closed up, so that it
// never has to be made anew because of what was in it once.
type table struct {
	entries []holders // a power of two, at most half of them taken after reserve
	taken   int
	shift   uint
}

const entriesMin = 1024

// reserve makes room for n more keys, so that what find returns stays where it is.
func (t *table) reserve(n int) {
	if 2*(t.taken+n) <= len(t.entries) {
		return
	}
	old := t.entries
	size := max(entriesMin, 1<<bits.Len(uint(2*(t.taken+n)-1)))
	t.entries, t.taken, t.shift = make([]holders, size), 0, uint(64-bits.TrailingZeros(uint(size)))
	for i := range old {
		if !old[i].free() {
			*t.find(old[i].hash) = old[i]
		}
	}
}

// home is where a key's entry is if nothing is in its way. A hash that was made badly is spread, too.
func (t *table) home(hash uint64) int { return int(hash * 0x9E3779B97F4A7C15 >> t.shift) }

// find gives a key's entry, taking a free one when there is none. The caller enters a holder.
func (t *table) find(hash uint64) *holders {
	mask := len(t.entries) - 1
	for i := t.home(hash); ; i = (i + 1) & mask {
		h := &t.entries[i]
		if h.free() {
			h.hash = hash
			t.taken++
			return h
		}
		if h.hash == hash {
			return h
		}
	}
}

// drop takes a holder out of a key's entry, which is there.
func (t *table) drop(hash, holder uint64) {
	mask := len(t.entries) - 1
	i := t.home(hash)
	for t.entries[i].hash != hash || t.entries[i].free() {
		i = (i + 1) & mask
	}
	h := &t.entries[i]
	h.shared &^= holder
	h.exclusive &^= holder
	if !h.free() {
		return
	}
	t.taken--
	// Close up: an entry behind the gap that could stand in it moves there, and leaves a gap of its own.
	for gap, j := i, (i+1)&mask; !t.entries[j].free(); j = (j + 1) & mask {
		if home := t.home(t.entries[j].hash); (j-home)&mask >= (j-gap)&mask {
			t.entries[gap], t.entries[j] = t.entries[j], holders{}
			gap = j
		}
	}
}
