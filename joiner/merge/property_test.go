package merge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"shardcdc/pipeline"
)

// delivery runs one world through a Merger in one of many ways: batches of records, lags of the streams, answers
// to probes, sizes of batches and of memory, crashes are all drawn.
type delivery struct {
	w    *world
	conf Config
	m    *Merger

	known  int            // events that have happened
	at     []pipeline.LSN // how far each shard was offered
	asked  []Probe        // not answered yet
	flying []pipeline.Batch
	stream []pipeline.Batch // durable, or stored without an ack
	idles  int              // times that the shards are asked while nothing leaves
	skip   bool             // after a restart, PREPAREs that were rolled back meanwhile are not sent again
}

func newDelivery(t *rapid.T, w *world, stored []pipeline.Batch) *delivery {
	d := &delivery{w: w, stream: slices.Clone(stored)}
	d.conf = Config{
		Shards: len(w.ends), MaxClockSkew: w.skew, GlobalID: upToUnderscore,
		BytesMax: rapid.SampledFrom([]int{0, 1, 35, 1000}).Draw(t, "bytes held"),
		BatchMax: rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "messages in a batch"),
		Singly:   rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "transactions that leave one by one"),
	}
	d.conf.Watermarks = rapid.Bool().Draw(t, "watermarks are wanted")
	d.idles = rapid.IntRange(0, 5).Draw(t, "times that it is idle")
	if rapid.Bool().Draw(t, "transactions are several messages") {
		d.conf.Messages = func(tx *pipeline.Transaction) int { return 1 + len(tx.Fragments) }
	}
	d.start(t)
	return d
}

// start makes a Merger from the stream's last checkpoint: a first start and a restart are the same.
func (d *delivery) start(t *rapid.T) {
	d.conf.Start = pipeline.Checkpoint{Shards: make([]pipeline.ShardCheckpoint, d.conf.Shards)}
	if n := len(d.stream); n > 0 {
		d.conf.Start = d.stream[n-1].Checkpoint
		d.skip = rapid.Bool().Draw(t, "rolled back PREPAREs are skipped")
	}
	m, err := New(d.conf)
	if err != nil {
		t.Fatal(err)
	}
	d.m, d.asked, d.flying = m, nil, nil
	d.at = d.at[:0]
	for i := range d.conf.Start.Shards {
		d.at = append(d.at, d.conf.Start.Shards[i].Safe())
	}
}

// offer delivers up to n records to a shard's stream and says whether it had any.
func (d *delivery) offer(t *rapid.T, shard, n int) bool {
	all, end := d.w.wal(shard, d.known)
	var records []pipeline.Record
	more := false
	for _, r := range all {
		if r.End <= d.at[shard] || (d.skip && r.Kind == pipeline.Prepare && undone(all, r)) {
			continue
		}
		if len(records) == n {
			more = true
			break
		}
		records = append(records, r)
	}
	to := d.at[shard]
	if len(records) > 0 {
		to = records[len(records)-1].End
	}
	if !more {
		to = max(to, end)
	}
	moved := to > d.at[shard]
	d.at[shard] = to
	if err := d.m.Offer(pipeline.ShardID(shard), clone(records), to); err != nil {
		d.refused(t, err)
	}
	return moved
}

// refused ends a check. Here dates are believed at any distance, so now and then gids that are used again stop the merge: see
// the package doc. If they did it often, rapid would fail for want of checks that are not skipped.
func (d *delivery) refused(t *rapid.T, err error) {
	if d.w.reuse && strings.Contains(err.Error(), "used again too soon") {
		t.Skip(err)
	}
	t.Fatal(err)
}

func undone(all []pipeline.Record, p pipeline.Record) bool {
	return slices.ContainsFunc(all, func(r pipeline.Record) bool {
		return r.Kind == pipeline.RollbackPrepared && r.GID == p.GID && r.XID == p.XID
	})
}

// answer answers the oldest probe at the present instant: the clock first, then the WAL's end.
func (d *delivery) answer(t *rapid.T) bool {
	if len(d.asked) == 0 {
		return false
	}
	p := d.asked[0]
	d.asked = d.asked[1:]
	_, end := d.w.wal(int(p.Shard), d.known)
	if err := d.m.Probed(p.Shard, p.ID, d.w.clock(int(p.Shard), d.now()), end); err != nil {
		d.refused(t, err)
	}
	return true
}

// now is the physical time of the last event that has happened; when all have, a good while later.
func (d *delivery) now() time.Duration {
	switch {
	case d.known == len(d.w.events):
		return d.w.now + time.Hour
	case d.known == 0:
		return 0
	}
	return d.w.events[d.known-1].at
}

func (d *delivery) take(bytesMax int) bool {
	b, ok := d.m.Take(bytesMax)
	if !ok {
		if d.idles > 0 { // each has the shards asked again, so it has an end
			d.idles--
			d.m.Idle()
		}
		b, ok = d.m.Heartbeat()
	}
	if ok {
		d.flying = append(d.flying, b)
	}
	return ok
}

func (d *delivery) store() bool {
	if len(d.flying) == 0 {
		return false
	}
	d.stream = append(d.stream, d.flying[0])
	d.flying = d.flying[1:]
	return true
}

func (d *delivery) becomeDurable() bool {
	if !d.store() {
		return false
	}
	d.m.Durable(&d.stream[len(d.stream)-1].Checkpoint)
	return true
}

// wander takes random steps.
func (d *delivery) wander(t *rapid.T, steps int) {
	for range steps {
		switch rapid.SampledFrom([]string{"time", "offer", "offer", "ask", "answer", "take", "durable", "crash"}).Draw(t, "step") {
		case "time":
			d.known = min(len(d.w.events), d.known+rapid.IntRange(1, 10).Draw(t, "events"))
		case "offer":
			shard := rapid.IntRange(0, d.conf.Shards-1).Draw(t, "shard")
			if d.m.Admits(pipeline.ShardID(shard)) {
				d.offer(t, shard, rapid.IntRange(1, 8).Draw(t, "records"))
			}
		case "ask":
			d.asked = d.m.Probes(d.asked)
		case "answer":
			d.answer(t)
		case "take":
			d.take(rapid.SampledFrom([]int{1, 30, 1000}).Draw(t, "bytes"))
		case "durable":
			d.becomeDurable()
		case "crash":
			if rapid.IntRange(0, 3).Draw(t, "crash") == 0 {
				for range rapid.IntRange(0, len(d.flying)).Draw(t, "stored") {
					d.store()
				}
				d.start(t)
			}
		}
	}
}

// finish lets everything happen and arrive until nothing moves any more.
func (d *delivery) finish(t *rapid.T) {
	d.known = len(d.w.events)
	records := rapid.IntRange(1, 8).Draw(t, "records")
	for moved := true; moved; {
		moved = false
		for shard := range d.conf.Shards {
			if d.m.Admits(pipeline.ShardID(shard)) {
				moved = d.offer(t, shard, records) || moved
			}
		}
		d.asked = d.m.Probes(d.asked)
		moved = d.answer(t) || moved
		moved = d.take(1000) || moved
		moved = d.becomeDurable() || moved
	}
}

// check compares the stream with what the world says must be in it.
func (d *delivery) check(t *rapid.T) {
	place := map[string]int{}
	last := pipeline.CSN(0)
	for _, b := range d.stream {
		if b.Previous != last {
			t.Fatalf("a batch says that it follows %s, not %s", b.Previous, last)
		}
		for _, tx := range b.Transactions {
			if tx.CSN <= last {
				t.Fatalf("csn %s after %s", tx.CSN, last)
			}
			last = tx.CSN
			name := d.checkWhole(t, tx)
			if _, twice := place[name]; twice {
				t.Fatalf("%s is in the stream twice", name)
			}
			place[name] = len(place)
		}
		if b.Checkpoint.Last != last || b.Checkpoint.Watermark < last {
			t.Fatalf("checkpoint says last %s, watermark %s after %s", b.Checkpoint.Last, b.Checkpoint.Watermark, last)
		}
	}
	for name := range d.w.committed {
		if _, ok := place[name]; !ok {
			t.Fatalf("%s is missing; stuck: %s", name, d.describe())
		}
	}
	for _, history := range d.w.conflicts {
		d.checkOrder(t, history, place)
	}
}

// checkWhole checks that a transaction has all its fragments and no other's, and names it.
func (d *delivery) checkWhole(t *rapid.T, tx *pipeline.Transaction) string {
	name := d.w.owner[position{tx.Fragments[0].Shard, tx.Fragments[0].End}]
	want, ok := d.w.committed[name]
	if !ok {
		t.Fatalf("%s was not committed", name)
	}
	if len(tx.Fragments) != want {
		t.Fatalf("%s has %d fragments, want %d", name, len(tx.Fragments), want)
	}
	for _, f := range tx.Fragments {
		if other := d.w.owner[position{f.Shard, f.End}]; other != name {
			t.Fatalf("%s holds %s, which is of %s", name, f, other)
		}
	}
	return name
}

func (d *delivery) checkOrder(t *rapid.T, history []string, place map[string]int) {
	for i, name := range history {
		if _, ok := d.w.committed[name]; !ok {
			continue
		}
		for _, later := range history[i+1:] {
			if later != name && place[later] < place[name] {
				t.Fatalf("%s conflicts with %s, came first and leaves later", name, later)
			}
		}
	}
}

func (d *delivery) describe() string {
	st := d.m.Status()
	return fmt.Sprintf("%+v", st)
}

// TestOneHistory delivers one history in many ways. Each gives the same transactions, whole, once, conflicting
// ones in the order in which they happened, and never gets stuck: with crashes, lags, one byte of memory, batches
// of one transaction.
func TestOneHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, false)
		for range 2 {
			d := newDelivery(t, w, nil)
			d.wander(t, rapid.IntRange(0, 100).Draw(t, "wander"))
			d.finish(t)
			d.check(t)
		}
	})
}

// TestEveryCheckpointIsAStart goes on from every checkpoint of a run, and from what the run had published by then.
func TestEveryCheckpointIsAStart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, false)
		d := newDelivery(t, w, nil)
		d.wander(t, rapid.IntRange(0, 100).Draw(t, "wander"))
		d.finish(t)
		d.check(t)
		for n := range d.stream {
			again := newDelivery(t, w, d.stream[:n+1])
			again.wander(t, rapid.IntRange(0, 10).Draw(t, "wander"))
			again.finish(t)
			again.check(t)
		}
	})
}

// TestGidsUsedAgain is TestOneHistory in worlds where global ids are used again, by transactions of the same and of
// other shards, while streams lag by more than one use.
func TestGidsUsedAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, true)
		d := newDelivery(t, w, nil)
		d.wander(t, rapid.IntRange(0, 100).Draw(t, "wander"))
		d.finish(t)
		d.check(t)
	})
}

// TestSameCallsSameOutput runs the same calls twice.
func TestSameCallsSameOutput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, false)
		steps := rapid.SliceOfN(rapid.IntRange(0, 1<<16), 0, 60).Draw(t, "steps")
		a, b := replay(t, w, steps), replay(t, w, steps)
		if a != b {
			t.Fatalf("two runs of the same calls differ:\n%s\n%s", a, b)
		}
	})
}

func replay(t *rapid.T, w *world, steps []int) string {
	d := &delivery{w: w, conf: Config{Shards: len(w.ends), MaxClockSkew: w.skew, GlobalID: upToUnderscore}}
	d.start(t)
	for _, s := range steps {
		d.known = min(len(w.events), d.known+s%3)
		d.offer(t, s%d.conf.Shards, 1+s%5)
		d.asked = d.m.Probes(d.asked)
		if s%2 == 0 {
			d.answer(t)
		}
		d.take(30)
	}
	out := ""
	for _, b := range d.flying {
		for _, tx := range b.Transactions {
			out += transactionText(tx)
		}
		out += checkpointText(&b.Checkpoint)
	}
	return out
}
