package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// micros is true time, or a span of it, in microseconds since the world began.
type micros = int64

// never is an instant that does not come.
const never micros = 1 << 60

// Options say everything about one run: the same options give the same run.
type Options struct {
	Seed     uint64 // of the world
	Observer uint64 // of the readers, probes, publisher and crashes

	Shards   int
	Rows     int    // per shard; few rows make many conflicts
	Txns     int    // transactions that the world tries
	Skip     []int  // transactions left out, rising (shrinking)
	Interval micros // between the beginnings of two transactions
	Latency  micros // typical time of one step of a transaction

	// Shares of transactions, in percent.
	TwoPhase, Citus, Origin, Empty, Reader int
	// Shares of two-phase transactions, in percent.
	Rollback, Orphan, HalfWay, Reuse, Suffix int

	// ListReuse lets transactions decided by a list (Citus) use gids again, too. While streams lag far enough
	// apart to mix two users of one gid, joiner/merge cannot always tell these apart: off by default.
	ListReuse bool

	// AtOnce lets gids be used again by other shards before the clocks can tell, in percent of those used again. It cannot
	// always be told what belongs to which use: a loud stop is right, and so are two whole transactions in one.
	AtOnce int
	// WrongClocks is the share of shards whose clock is wrong for a while, in percent. Gids may be mixed up then as with
	// AtOnce, and real time is not kept.
	WrongClocks int

	DatesBehind int  // of the merger; 0: dates are evidence at all times
	Watermarks  bool // idle streams tell watermarks

	MaxClockSkew micros // what the merger is told
	Skew         micros // what clocks really are off true time, at most; 2*Skew <= MaxClockSkew
	Cut          int    // the world stops after this percentage of its time

	Lag       micros // of lagging streams
	Crashes   int    // of the capturing node
	BytesMax  int    // of the merger
	TakeBytes int    // of a unit, at most
	Batch     int    // records in one Offer, at most
	InFlight  int    // units taken and not stored, at most
}

// OptionsOf derives the options of a seed. Worlds are small: most faults need few transactions.
func OptionsOf(seed uint64) Options {
	r := rand.New(rand.NewPCG(seed, 0x0b7))
	pick := func(v ...int) int { return v[r.IntN(len(v))] }
	o := Options{
		Seed:     seed,
		Observer: seed,
		Shards:   pick(1, 2, 2, 3, 3, 3, 4, 5),
		Rows:     pick(1, 2, 3, 5, 20),
		Txns:     pick(3, 6, 10, 20, 30, 50),
		Interval: int64(pick(20, 100, 300, 2000)),
		Latency:  int64(pick(20, 100, 500, 3000)),

		TwoPhase: pick(0, 30, 60, 90),
		Citus:    pick(0, 0, 30, 60),
		Origin:   pick(0, 0, 0, 15),
		Empty:    pick(0, 5, 30),
		Reader:   pick(0, 20, 50),
		Rollback: pick(0, 10, 30),
		Orphan:   pick(0, 5, 20),
		HalfWay:  pick(0, 10, 30),
		Reuse:    pick(0, 0, 30, 60),
		Suffix:   pick(0, 50, 100),

		MaxClockSkew: int64(pick(1, 100, 2000, 20000)),
		Cut:          pick(100, 100, 90, 60, 30),
		Lag:          int64(pick(0, 500, 5000, 50000)),
		Crashes:      pick(0, 0, 1, 2, 6),
		BytesMax:     pick(0, 0, 1, 100, 1000),
		TakeBytes:    pick(1, 100, 1000, 1<<20),
		Batch:        pick(1, 2, 5, 1000),
		InFlight:     pick(1, 1, 3),
	}
	o.Skew = o.MaxClockSkew / 2 * int64(pick(0, 1, 2, 2)) / 2
	o.AtOnce = pick(0, 0, 0, 0, 0, 0, 50, 100)
	o.WrongClocks = pick(0, 0, 0, 0, 0, 50)
	if o.AtOnce > 0 {
		o.Skew = 0 // else nothing could tell: a known hole
	}
	if o.Reuse > 0 && o.AtOnce+o.WrongClocks > 0 {
		o.Orphan, o.Rollback, o.Cut = 0, 0, 100 // another: a use that is in doubt may leave with the one before
	}
	o.DatesBehind = pick(0, 0, 200, 1<<40)
	if o.WrongClocks+o.AtOnce > 0 {
		o.DatesBehind = 1 << 40 // far behind, dates are believed: a known hole
	}
	o.Watermarks = pick(0, 1) == 1
	return o
}

// rand is a generator of its own for a part of the world.
func (o *Options) rand(part string, n int) *rand.Rand {
	h := o.Seed
	for _, b := range []byte(part) {
		h = h*0x100000001b3 ^ uint64(b)
	}
	return rand.New(rand.NewPCG(h, uint64(n)))
}

func (o *Options) skips(id int) bool {
	_, found := slices.BinarySearch(o.Skip, id)
	return found
}

func (o Options) String() string {
	type plain Options
	return fmt.Sprintf("%+v", plain(o))
}

// chance is true in percent out of a hundred cases.
func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

// around is a random span: mostly below twice the mean, now and then ten times as long, never zero.
func around(r *rand.Rand, mean micros) micros {
	if mean < 1 {
		return 1
	}
	if chance(r, 5) {
		mean *= 10
	}
	return 1 + r.Int64N(2*mean)
}
