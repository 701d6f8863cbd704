package wire

import (
	"encoding/binary"

	"shardcdc/pipeline"

	"pgregory.net/rapid"
)

// rawRelation builds a Relation message.
func rawRelation(id uint32, schema, name string, identity byte, columns ...pipeline.Column) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'R'}, id)
	b = append(append(b, schema...), 0)
	b = append(append(b, name...), 0)
	b = append(b, identity)
	b = binary.BigEndian.AppendUint16(b, uint16(len(columns)))
	for _, c := range columns {
		flags := byte(0)
		if c.Key {
			flags = 1
		}
		b = append(b, flags)
		b = append(append(b, c.Name...), 0)
		b = binary.BigEndian.AppendUint32(b, c.Type)
		b = binary.BigEndian.AppendUint32(b, uint32(c.Modifier))
	}
	return b
}

func relation(raw []byte, types ...pipeline.Type) *pipeline.Relation {
	r, err := pipeline.ParseRelation(raw, func(oid uint32) (pipeline.Type, bool) {
		for _, t := range types {
			if t.OID == oid {
				return t, true
			}
		}
		return pipeline.Type{}, false
	})
	if err != nil {
		panic(err)
	}
	return r
}

// insertMessage builds an Insert of text values.
func insertMessage(id uint32, values ...string) []byte {
	b := append(binary.BigEndian.AppendUint32([]byte{'I'}, id), 'N')
	b = binary.BigEndian.AppendUint16(b, uint16(len(values)))
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(append(b, pipeline.Text), uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

// accounts and its next version, after ADD COLUMN.
func accounts() (v1, v2 *pipeline.Relation) {
	id := pipeline.Column{Name: "id", Key: true, Type: 23, Modifier: -1}
	balance := pipeline.Column{Name: "balance", Type: 1700, Modifier: -1}
	mood := pipeline.Column{Name: "mood", Type: 16500, Modifier: -1}
	v1 = relation(rawRelation(16400, "public", "accounts", 'd', id, balance))
	v2 = relation(rawRelation(16400, "public", "accounts", 'd', id, balance, mood),
		pipeline.Type{OID: 16500, Namespace: "public", Name: "mood"})
	return v1, v2
}

// sample is a batch with everything in it: a transfer over two shards and a version change within a fragment.
func sample() *pipeline.Batch {
	v1, v2 := accounts()
	a := &pipeline.Fragment{Shard: 0, XID: 741, GID: "tx7_0", Start: 0x16B3748, End: 0x16B3860, Time: 800_000_000_000_000}
	a.Relations = []pipeline.RelationUse{{Offset: 0, Relation: v1}}
	a.Append(insertMessage(16400, "1", "-5.00"))
	b := &pipeline.Fragment{Shard: 1, XID: 42, GID: "tx7_1", Start: 0x100, End: 0x1F0, Time: 800_000_000_000_100, Origin: "remote"}
	b.Relations = []pipeline.RelationUse{{Offset: 0, Relation: v1}}
	b.Append(insertMessage(16400, "1", "5.00"))
	b.Relations = append(b.Relations, pipeline.RelationUse{Offset: int64(len(b.Body)), Relation: v2})
	b.Append(insertMessage(16400, "2", "", "happy"))
	c := &pipeline.Fragment{Shard: 1, XID: 43, Start: 0x200, End: 0x230, Time: 800_000_000_000_200}
	return &pipeline.Batch{
		Previous: 3_276_000_000_000_000_000,
		Transactions: []*pipeline.Transaction{
			{CSN: 3_276_800_000_000_000_001, GID: "tx7", CommitTime: 800_000_000_000_150, Fragments: []*pipeline.Fragment{a, b}},
			{CSN: 3_276_800_000_000_819_200, CommitTime: 800_000_000_000_200, Fragments: []*pipeline.Fragment{c}},
		},
	}
}

// drawBatch makes any batch that the rules allow.
func drawBatch(t *rapid.T) *pipeline.Batch {
	versions := drawVersions(t)
	b := &pipeline.Batch{Previous: pipeline.CSN(rapid.Uint64Range(0, 1<<62).Draw(t, "previous"))}
	csn := b.Previous
	for range rapid.IntRange(0, 6).Draw(t, "transactions") {
		csn += pipeline.CSN(rapid.Uint64Range(1, 1<<50).Draw(t, "step"))
		tx := &pipeline.Transaction{CSN: csn, GID: rapid.String().Draw(t, "gid"), CommitTime: pipeline.Timestamp(rapid.Int64().Draw(t, "time"))}
		shard, end := 0, uint64(0)
		for range rapid.IntRange(1, 4).Draw(t, "fragments") {
			if step := rapid.IntRange(0, 3).Draw(t, "shard"); step > 0 {
				shard, end = shard+step, 0
			}
			end += rapid.Uint64Range(0, 1<<60).Draw(t, "end")
			f := drawFragment(t, versions)
			f.Shard, f.End = pipeline.ShardID(shard), pipeline.LSN(end)
			if rapid.Bool().Draw(t, "same gid") {
				f.GID = tx.GID
			}
			tx.Fragments = append(tx.Fragments, f)
		}
		b.Transactions = append(b.Transactions, tx)
	}
	return b
}

func drawVersions(t *rapid.T) []*pipeline.Relation {
	var all []*pipeline.Relation
	for i := range rapid.IntRange(1, 4).Draw(t, "versions") {
		oid := rapid.SampledFrom([]uint32{23, 25, 16500, 1 << 31}).Draw(t, "type")
		columns := make([]pipeline.Column, rapid.IntRange(0, 3).Draw(t, "columns"))
		for c := range columns {
			columns[c] = pipeline.Column{Name: rapid.StringMatching(`[a-zé" ]{1,5}`).Draw(t, "column"), Type: oid, Modifier: int32(i)}
		}
		id := uint32(16384 + i/2) // two versions of each table
		all = append(all, relation(rawRelation(id, "s", "t", 'f', columns...), pipeline.Type{OID: oid, Namespace: "x", Name: "mood"}))
	}
	return all
}

func drawFragment(t *rapid.T, versions []*pipeline.Relation) *pipeline.Fragment {
	f := &pipeline.Fragment{
		XID:    pipeline.XID(rapid.Uint32().Draw(t, "xid")),
		Start:  pipeline.LSN(rapid.Uint64().Draw(t, "start")),
		GID:    rapid.String().Draw(t, "gid"),
		Time:   pipeline.Timestamp(rapid.Int64().Draw(t, "time")),
		Origin: rapid.SampledFrom([]string{"", "remote"}).Draw(t, "origin"),
	}
	for range rapid.IntRange(0, 5).Draw(t, "changes") {
		if rapid.Bool().Draw(t, "use") {
			r := rapid.SampledFrom(versions).Draw(t, "version")
			f.Relations = append(f.Relations, pipeline.RelationUse{Offset: int64(len(f.Body)), Relation: r})
		}
		kind := rapid.SampledFrom([]byte("IUDTM")).Draw(t, "kind")
		f.Append(append([]byte{kind}, rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "message")...))
	}
	return f
}
