package merge

import (
	"runtime"
	"testing"
	"time"

	"shardcdc/pipeline"
)

// Small transactions stay within BytesMax as well, in bytes of memory and not of rows; and nothing of it stays behind.
func TestWeight(t *testing.T) {
	const bytesMax = 16 << 20
	m, err := New(Config{
		Shards: 2, MaxClockSkew: time.Second, GlobalID: func(gid string) string { return gid },
		Start: pipeline.Checkpoint{Shards: make([]pipeline.ShardCheckpoint, 2)}, BytesMax: bytesMax, FragmentBytes: 512,
	})
	if err != nil {
		t.Fatal(err)
	}
	offer := func(shard pipeline.ShardID, r pipeline.Record) {
		t.Helper()
		if err := m.Offer(shard, []pipeline.Record{r}, r.End); err != nil {
			t.Fatal(err)
		}
	}
	at := pipeline.LSN(0)
	record := func(kind pipeline.RecordKind, gid string) pipeline.Record {
		at += 100
		f := &pipeline.Fragment{Start: at, End: at + 50, Time: pipeline.Timestamp(at), GID: gid, XID: pipeline.XID(at)}
		f.Relations = append(f.Relations, pipeline.RelationUse{Relation: &relationOfTest})
		f.Body = make([]byte, 0, 256)
		f.Append(make([]byte, 20))
		return pipeline.Record{Kind: kind, Fragment: f, GID: gid, XID: f.XID, Start: f.Start, End: f.End, Time: f.Time}
	}
	before := heap()
	for n := 0; m.Admits(0); n++ { // shard 1 says nothing: everything waits for it
		switch n % 4 {
		case 0:
			p := record(pipeline.Prepare, "g")
			offer(0, p)
			offer(0, pipeline.Record{Kind: pipeline.RollbackPrepared, GID: "g", XID: p.XID, PrepareEnd: p.End, End: p.End + 10, Time: p.Time + 10})
		case 1:
			empty := record(pipeline.Commit, "")
			empty.Fragment.Body, empty.Fragment.Changes = nil, 0
			offer(0, empty)
		default:
			offer(0, record(pipeline.Commit, ""))
		}
	}
	if took := heap() - before; took > 2*bytesMax {
		t.Errorf("takes %d bytes of memory, BytesMax is %d", took, bytesMax)
	}
	for _, p := range m.Probes(nil) {
		if err := m.Probed(p.Shard, p.ID, pipeline.Timestamp(at)+1, 0); err != nil {
			t.Fatal(err)
		}
	}
	for {
		b, ok := m.Take(1 << 20)
		if !ok {
			break
		}
		m.Durable(&b.Checkpoint)
	}
	if m.held != 0 || m.waiting.len() != 0 {
		t.Fatalf("%d bytes and %d transactions are left", m.held, m.waiting.len())
	}
}

var relationOfTest pipeline.Relation

func heap() int {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int(s.HeapAlloc)
}
