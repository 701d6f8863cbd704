package fold

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"shardcdc/pipeline"
)

// Snapshot is what pg_current_snapshot() says of one shard: which transactions are visible. The zero Snapshot sees none.
// Transaction numbers here are PostgreSQL's 64-bit ones (xid8), which do not wrap around.
type Snapshot struct {
	XMin, XMax uint64   // below XMin all have ended; XMax and above have not begun, or not ended
	Running    []uint64 // between the two: those that have not ended; rising
}

// ParseSnapshot reads PostgreSQL's text form, xmin:xmax:xid,xid,…
func ParseSnapshot(text string) (s Snapshot, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return s, fmt.Errorf("snapshot %q: want xmin:xmax:list, like 10:20:10,14", text)
	}
	number := func(t string) uint64 {
		n, e := strconv.ParseUint(t, 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("snapshot %q: %w", text, e)
		}
		return n
	}
	s.XMin, s.XMax = number(parts[0]), number(parts[1])
	if parts[2] != "" {
		for _, x := range strings.Split(parts[2], ",") {
			s.Running = append(s.Running, number(x))
		}
	}
	slices.Sort(s.Running)
	if err == nil && (s.XMin == 0 || s.XMin > s.XMax) {
		err = fmt.Errorf("snapshot %q: xmin is to lie between 1 and xmax", text)
	}
	if err != nil {
		return Snapshot{}, err
	}
	return s, nil
}

// String is PostgreSQL's text form.
func (s Snapshot) String() string {
	b := strconv.AppendUint(nil, s.XMin, 10)
	b = strconv.AppendUint(append(b, ':'), s.XMax, 10)
	b = append(b, ':')
	for i, x := range s.Running {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, x, 10)
	}
	return string(b)
}

// Sees says whether a committed transaction is visible. A fragment's 32-bit number means the 64-bit one that is nearest to
// XMax: PostgreSQL itself lets no two that are in use be further apart than that.
func (s Snapshot) Sees(xid pipeline.XID) bool {
	full := s.full(xid)
	switch {
	case full >= s.XMax:
		return false
	case full < s.XMin:
		return true
	}
	_, running := slices.BinarySearch(s.Running, full)
	return !running
}

// seesThrough says that every transaction up to this one, in the order of their numbers, has ended.
func (s Snapshot) seesThrough(xid pipeline.XID) bool { return s.full(xid) < s.XMin }

// full is the 64-bit number nearest to XMax.
func (s Snapshot) full(xid pipeline.XID) uint64 {
	away := int64(int32(uint32(xid) - uint32(s.XMax)))
	if away < 0 && s.XMax < uint64(-away) {
		return uint64(xid) // there was nothing before the first epoch
	}
	return s.XMax + uint64(away)
}

// equal says whether both see the same.
func (s Snapshot) equal(o Snapshot) bool {
	return s.XMin == o.XMin && s.XMax == o.XMax && slices.Equal(s.Running, o.Running)
}

// later says that s was taken after o, on the same server: XMax rises, and while it stays, transactions only end.
func (s Snapshot) later(o Snapshot) bool {
	return s.XMax > o.XMax || s.XMax == o.XMax && len(s.Running) < len(o.Running)
}
