package postgres_test

import (
	"encoding/binary"
	"strconv"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// copied names tables of schema public with a key; keyless those without.
func copied(names ...string) (list []mark.Table) {
	for _, n := range names {
		list = append(list, mark.Table{Schema: "public", Name: n, Keyed: true})
	}
	return list
}

func keyless(names ...string) []mark.Table {
	list := copied(names...)
	for i := range list {
		list[i].Keyed = false
	}
	return list
}

// mark is a transaction that holds a mark only.
func (w *world) mark(shard int, m mark.Copy) *pipeline.Transaction {
	w.csn++
	f := &pipeline.Fragment{Shard: pipeline.ShardID(shard)}
	f.Append(mark.Message(mark.CopyPrefix, m.Content(), 0))
	return &pipeline.Transaction{CSN: w.csn, Fragments: []*pipeline.Fragment{f}}
}

func (w *world) begin(targetRows string, tables ...mark.Table) *pipeline.Transaction {
	return w.mark(0, mark.Copy{Kind: mark.Begin, Job: "j", Tables: tables, TargetRows: targetRows})
}

func (w *world) end(tables ...mark.Table) *pipeline.Transaction {
	return w.mark(0, mark.Copy{Kind: mark.End, Job: "j", Tables: tables, Last: true})
}

// chunk is the rows of a shard that satisfy a condition, as they are now.
func (w *world) chunk(shard int, t mark.Table, where string) *pipeline.Transaction {
	w.t.Helper()
	tx := w.mark(shard, mark.Copy{Kind: mark.Rows, Job: "j", Chunk: "c", Tables: []mark.Table{t}})
	f := tx.Fragments[0]
	name := `"` + t.Schema + `"."` + t.Name + `"`
	r := w.relation(w.shards[shard], name, t)
	f.Relations = []pipeline.RelationUse{{Offset: f.Size(), Relation: r}}
	columns := ""
	for i, c := range r.Columns {
		if i > 0 {
			columns += ", "
		}
		columns += `"` + c.Name + `"`
	}
	results, err := w.shards[shard].conn.Exec(w.t.Context(), "SELECT "+columns+" FROM ONLY "+name+" WHERE "+where).ReadAll()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, row := range results[0].Rows {
		f.Append(read(r.ID, row))
	}
	return tx
}

// read is the message of a copied row.
func read(relation uint32, row [][]byte) []byte {
	msg := append(binary.BigEndian.AppendUint32([]byte{byte(pipeline.Read)}, relation), 'N')
	msg = binary.BigEndian.AppendUint16(msg, uint16(len(row)))
	for _, v := range row {
		if v == nil {
			msg = append(msg, pipeline.Null)
			continue
		}
		msg = binary.BigEndian.AppendUint32(append(msg, pipeline.Text), uint32(len(v)))
		msg = append(msg, v...)
	}
	return msg
}

// relation describes a table as pgoutput would.
func (w *world) relation(d *database, name string, t mark.Table) *pipeline.Relation {
	w.t.Helper()
	results, err := d.conn.Exec(w.t.Context(), `SELECT c.oid, c.relreplident, a.attname, a.atttypid, a.atttypmod,
			c.relreplident = 'f' OR coalesce(a.attnum = ANY (i.indkey), false)
		FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
		LEFT JOIN pg_index i ON i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
		WHERE c.oid = '`+name+`'::regclass ORDER BY a.attnum`).ReadAll()
	if err != nil {
		w.t.Fatal(err)
	}
	rows := results[0].Rows
	number := func(b []byte) uint32 {
		n, err := strconv.ParseInt(string(b), 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		return uint32(n)
	}
	msg := binary.BigEndian.AppendUint32([]byte{'R'}, number(rows[0][0]))
	msg = append(append(append(append(msg, t.Schema...), 0), t.Name...), 0)
	msg = append(msg, rows[0][1][0])
	if rows[0][2] == nil {
		rows = nil
	}
	msg = binary.BigEndian.AppendUint16(msg, uint16(len(rows)))
	for _, c := range rows {
		key := byte(0)
		if string(c[5]) == "t" {
			key = 1
		}
		msg = append(append(append(msg, key), c[2]...), 0)
		msg = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(msg, number(c[3])), number(c[4]))
	}
	r, err := pipeline.ParseRelation(msg, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// restart closes the session: the next one knows only what the target says.
func (w *world) restart() {
	if w.session != nil {
		w.session.Close(w.t.Context())
		w.session = nil
	}
}

// must applies transactions.
func (w *world) must(txs ...*pipeline.Transaction) {
	w.t.Helper()
	if err := w.try(txs); err != nil {
		w.t.Fatal(err)
	}
}
