package sim

import (
	"math/rand/v2"

	"shardcdc/pipeline"
)

// epoch is the world's first instant on a clock that is right: some day in 2026.
const epoch pipeline.Timestamp = 820_000_000_000_000

// clock is one shard's clock: true time plus an error that drifts and steps and stays within a limit.
type clock struct {
	knots []knot // by rising time; the first is at or before zero
	limit micros
	wrong wrong
}

// wrong is a while in which a clock is off by more than anybody allows.
type wrong struct{ from, to, off micros }

func (w wrong) at(t micros) bool { return w.from <= t && t < w.to }

type knot struct {
	at, error micros
	perMille  micros // drift after the knot
}

func newClock(r *rand.Rand, limit, span micros) clock {
	c := clock{limit: limit}
	for at := micros(0); at <= span; at += 1 + span/4 + r.Int64N(1+span/4) {
		k := knot{at: at}
		if limit > 0 {
			k.error = r.Int64N(2*limit+1) - limit
			if chance(r, 40) { // the border is where faults are
				k.error = limit * (2*r.Int64N(2) - 1)
			}
			if chance(r, 50) {
				k.perMille = r.Int64N(41) - 20
			}
		}
		c.knots = append(c.knots, k)
	}
	return c
}

// set makes the clock wrong for a while, by more than allowed and by how long a record may take to be written.
func (c *clock) set(r *rand.Rand, allowed, since, span micros) {
	off := allowed + 2_000_000 + r.Int64N(20_000_000)
	if chance(r, 30) {
		off += 3_600_000_000
	}
	if chance(r, 50) {
		off = -off
	}
	from := since + r.Int64N(1+max(0, span-since))
	c.wrong = wrong{from, from + 1 + r.Int64N(1+span/2), off}
}

// at reads the clock at a true instant.
func (c *clock) at(t micros) pipeline.Timestamp {
	k := c.knots[0]
	for _, n := range c.knots[1:] {
		if n.at > t {
			break
		}
		k = n
	}
	e := k.error + (t-k.at)*k.perMille/1000
	e = max(-c.limit, min(c.limit, e))
	if c.wrong.at(t) {
		e += c.wrong.off
	}
	return epoch + pipeline.Timestamp(t+e)
}
