package merge

import (
	"fmt"
	"testing"
	"time"

	"shardcdc/pipeline"
)

// BenchmarkOneShard is a shard's plain commits: nanoseconds and allocations per transaction.
func BenchmarkOneShard(b *testing.B) { benchmarkMerge(b, 1, 0) }

// BenchmarkOnePhase is the plain commits of three shards.
func BenchmarkOnePhase(b *testing.B) { benchmarkMerge(b, 3, 0) }

// BenchmarkHalfTwoPhase: of four transactions two are commits and two are distributed over two of the three shards.
func BenchmarkHalfTwoPhase(b *testing.B) { benchmarkMerge(b, 3, 2) }

const benchRound = 4 * 64 // transactions per Offer of every shard

// bench writes the shards' WAL, a round at a time, outside the timer.
type bench struct {
	wal    [][]pipeline.Record
	end    pipeline.LSN
	now    pipeline.Timestamp
	xid    pipeline.XID
	global map[string]string
}

func benchmarkMerge(b *testing.B, shards, twoPhaseOf4 int) {
	w := &bench{wal: make([][]pipeline.Record, shards), global: map[string]string{}}
	m, err := New(Config{
		Shards: shards, MaxClockSkew: time.Second,
		GlobalID: func(gid string) string { return w.global[gid] },
		Start:    pipeline.Checkpoint{Shards: make([]pipeline.ShardCheckpoint, shards)},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	taken := 0
	for done := 0; done < b.N; done += benchRound {
		b.StopTimer()
		w.round(twoPhaseOf4)
		b.StartTimer()
		taken += w.run(b, m)
	}
	b.StopTimer()
	if taken < b.N-benchRound {
		b.Fatalf("%d of %d transactions came out", taken, b.N)
	}
}

func (w *bench) round(twoPhaseOf4 int) {
	clear(w.global)
	for i := range w.wal {
		w.wal[i] = w.wal[i][:0]
	}
	for n := range benchRound {
		shard := n % len(w.wal)
		w.now++
		w.xid++
		if n%4 >= twoPhaseOf4 {
			w.write(shard, pipeline.Record{Kind: pipeline.Commit, Fragment: w.fragment()})
			continue
		}
		other := (shard + 1) % len(w.wal)
		id := fmt.Sprint("g", w.xid)
		gids := [2]string{id + "_0", id + "_1"}
		w.global[gids[0]], w.global[gids[1]] = id, id
		w.write(shard, pipeline.Record{Kind: pipeline.Prepare, Fragment: w.fragment(), GID: gids[0]})
		w.write(other, pipeline.Record{Kind: pipeline.Prepare, Fragment: w.fragment(), GID: gids[1]})
		w.write(shard, pipeline.Record{Kind: pipeline.CommitPrepared, GID: gids[0]})
		w.write(other, pipeline.Record{Kind: pipeline.CommitPrepared, GID: gids[1]})
	}
}

func (w *bench) fragment() *pipeline.Fragment {
	f := &pipeline.Fragment{}
	f.Append([]byte("tenbyt"))
	return f
}

func (w *bench) write(shard int, r pipeline.Record) {
	w.end += 16
	r.Start, r.End, r.Time, r.XID = w.end-8, w.end, w.now, w.xid
	if f := r.Fragment; f != nil {
		f.Shard, f.Start, f.End, f.Time, f.XID, f.GID = pipeline.ShardID(shard), r.Start, r.End, r.Time, r.XID, r.GID
	}
	w.wal[shard] = append(w.wal[shard], r)
}

// run offers a round, answers every probe at its end, and takes all that comes.
func (w *bench) run(b *testing.B, m *Merger) int {
	for i := range w.wal {
		if err := m.Offer(pipeline.ShardID(i), w.wal[i], w.end); err != nil {
			b.Fatal(err)
		}
	}
	var room [3]Probe
	for {
		probes := m.Probes(room[:0])
		if len(probes) == 0 {
			break
		}
		for _, p := range probes {
			if err := m.Probed(p.Shard, p.ID, w.now+1, w.end); err != nil {
				b.Fatal(err)
			}
		}
	}
	taken := 0
	for {
		batch, ok := m.Take(1 << 20)
		if !ok {
			return taken
		}
		taken += len(batch.Transactions)
		m.Durable(&batch.Checkpoint)
	}
}
