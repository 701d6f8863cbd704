package mysql_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

func tables(keyed bool, names ...string) (list []mark.Table) {
	for _, n := range names {
		list = append(list, mark.Table{Schema: "public", Name: n, Keyed: keyed})
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
	r := w.relation(shard, t)
	f.Relations = []pipeline.RelationUse{{Offset: f.Size(), Relation: r}}
	results, err := w.shards[shard].Exec(w.t.Context(), "SELECT * FROM "+t.Name+" WHERE "+where).ReadAll()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, row := range results[0].Rows {
		msg := append(binary.BigEndian.AppendUint32([]byte{byte(pipeline.Read)}, r.ID), 'N')
		msg = binary.BigEndian.AppendUint16(msg, uint16(len(row)))
		for _, v := range row {
			if v == nil {
				msg = append(msg, pipeline.Null)
				continue
			}
			msg = binary.BigEndian.AppendUint32(append(msg, pipeline.Text), uint32(len(v)))
			msg = append(msg, v...)
		}
		f.Append(msg)
	}
	return tx
}

// relation describes a table as pgoutput would.
func (w *world) relation(shard int, t mark.Table) *pipeline.Relation {
	w.t.Helper()
	lines := strings.Split(strings.TrimSpace(w.rowsPG(shard, `SELECT c.oid, c.relreplident, a.attname, a.atttypid, a.atttypmod,
			(c.relreplident = 'f' OR coalesce(a.attnum = ANY (i.indkey), false))::int
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
		WHERE c.oid = '`+t.Name+`'::regclass ORDER BY a.attnum`)), "\n")
	number := func(s string) uint32 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		return uint32(n)
	}
	var msg []byte
	for i, line := range lines {
		c := strings.Split(line, "|")
		if i == 0 {
			msg = binary.BigEndian.AppendUint32([]byte{'R'}, number(c[0]))
			msg = append(append(msg, "public\x00"+t.Name+"\x00"+c[1]...), byte(len(lines)>>8), byte(len(lines)))
		}
		msg = append(append(append(msg, byte(number(c[5]))), c[2]...), 0)
		msg = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(msg, number(c[3])), number(c[4]))
	}
	r, err := pipeline.ParseRelation(msg, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) must(txs ...*pipeline.Transaction) {
	w.t.Helper()
	if err := w.try(txs); err != nil {
		w.t.Fatal(err)
	}
}

// restart closes the session: the next one knows only what the target says.
func (w *world) restart() {
	if w.session != nil {
		w.session.Close(w.t.Context())
		w.session = nil
	}
}

// Rows that are here, that are missing, and that are here from before, in a table with one unique index and in one with two.
func TestCopyKeyed(t *testing.T) {
	for _, unique := range []string{"", ", UNIQUE KEY (u)"} {
		t.Run(fmt.Sprintf("another index %t", unique != ""), func(t *testing.T) {
			w := newWorld(t, 1)
			w.source("CREATE TABLE t (id int PRIMARY KEY, v text, u int)")
			w.exec("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT, u INT, own INT DEFAULT 7" + unique + ")")
			w.exec("INSERT INTO t VALUES (3, 'old', 30, 1), (9, 'old', 90, 1)")
			w.source("INSERT INTO t SELECT n, 'v' || n, n FROM generate_series(1, 6) n")
			w.capture()
			all := tables(true, "t")
			w.must(w.begin(mark.TargetMerge, all...))
			w.restart()
			w.source("UPDATE t SET v = 'a' WHERE id = 1; DELETE FROM t WHERE id = 2; UPDATE t SET id = 9 WHERE id = 6; INSERT INTO t VALUES (7, 'seven', 7)")
			w.must(w.capture()...)
			w.want("SELECT id, v, u FROM t ORDER BY id", "3|old|30; 7|seven|7")
			w.must(w.chunk(0, all[0], "id < 5"))
			w.restart()
			w.source("UPDATE t SET v = 'b' WHERE id IN (3, 5)")
			w.must(append(w.capture(), w.chunk(0, all[0], "id < 8"), w.chunk(0, all[0], "id < 8"), w.chunk(0, all[0], "id >= 8"))...)
			if got := w.session.Copies().Tables; len(got) != 1 || got[0] != "public.t" {
				t.Error(got)
			}
			end := w.end(all...)
			w.must(end)
			if c := w.session.Copies(); len(c.Tables) != 0 || c.ConsistentFrom != end.CSN {
				t.Error(c)
			}
			w.same("t:id, v, u")
			w.source("INSERT INTO t VALUES (8, 'x', 8)")
			w.must(w.capture()...)
			w.exec("DELETE FROM t WHERE id = 8")
			w.source("UPDATE t SET v = 'y' WHERE id = 8")
			if b := w.blocked(w.capture()); !strings.Contains(b.Error(), "is not on the target") {
				t.Error(b)
			}
		})
	}
}

// What a target does with rows that are there.
func TestCopyTargetRows(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
	w.exec("CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (5)")
	w.capture()
	all := tables(true, "t")
	if b := w.blocked([]*pipeline.Transaction{w.begin(mark.TargetFail, all...)}); !strings.Contains(b.Error(), "holds rows on the target already") {
		t.Error(b)
	}
	w.must(w.begin(mark.TargetTruncate, all...), w.chunk(0, all[0], "true"), w.end(all...))
	w.want("SELECT id FROM t", "1")
}

// A copied row takes the place of the one with its key, not of one that has another value of it by chance.
func TestCopyMeetsAnotherIndex(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY, u int); INSERT INTO t VALUES (1, 10)")
	w.exec("CREATE TABLE t (id INT PRIMARY KEY, u INT UNIQUE); INSERT INTO t VALUES (5, 10)")
	w.capture()
	all := tables(true, "t")
	w.must(w.begin(mark.TargetMerge, all...))
	if b := w.blocked([]*pipeline.Transaction{w.chunk(0, all[0], "true")}); b.Row != "(id)=(1)" || !strings.Contains(b.Error(), "Duplicate entry '10'") {
		t.Error(b)
	}
	w.want("SELECT id, u FROM t", "5|10")
}

// Of a table without a key, what a shard does before its rows arrive is contained in them; also a TRUNCATE.
func TestCopyKeyless(t *testing.T) {
	w := newWorld(t, 2)
	w.source("CREATE TABLE l (v int); ALTER TABLE l REPLICA IDENTITY FULL; INSERT INTO l VALUES (1), (1)")
	w.capture()
	all := tables(false, "l")
	w.must(w.begin(mark.TargetFail, all...))
	w.source("INSERT INTO l VALUES (2)")
	w.must(w.capture()...)
	w.must(w.chunk(0, all[0], "true"))
	w.want("SELECT v FROM l ORDER BY v", "1; 1; 2")
	w.restart()
	w.source("UPDATE l SET v = 3 WHERE v = 2")
	w.must(w.capture()...)
	w.want("SELECT v FROM l ORDER BY v", "1; 1; 3")
	w.execPG(w.shards[0], "TRUNCATE l; INSERT INTO l VALUES (4)")
	w.must(w.capture()...)
	w.want("SELECT v FROM l ORDER BY v", "4")
	w.must(w.chunk(1, all[0], "true"), w.end(all...))
	w.same("l")
	w.source("DELETE FROM l WHERE v = 1")
	w.must(w.capture()...)
	w.same("l")
}

// Random changes while a table is copied in random chunks, with sessions that end anywhere: in the end both are equal.
func TestCopyRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, 2)
	w.source("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE l (v int); ALTER TABLE l REPLICA IDENTITY FULL")
	for i, s := range w.shards {
		w.execPG(s, fmt.Sprintf("INSERT INTO t SELECT n * 2 + %d, n FROM generate_series(0, 19) n; INSERT INTO l SELECT n %% 3 FROM generate_series(1, 5) n", i))
	}
	w.capture()
	keyed, keyless := tables(true, "t"), tables(false, "l")
	w.must(w.begin(mark.TargetFail, append(keyed, keyless...)...))
	var again []func() *pipeline.Transaction // rows with a new key are copied once more: they may have left a range that was not copied yet
	change := func() {
		i := dice.IntN(2)
		id, other, v := dice.IntN(25)*2+i, dice.IntN(25)*2+i, dice.IntN(3)
		kind := dice.IntN(5)
		w.execPG(w.shards[i], []string{
			fmt.Sprintf("INSERT INTO t VALUES (%d, 0) ON CONFLICT (id) DO UPDATE SET v = t.v + 1", id),
			fmt.Sprintf("DELETE FROM t WHERE id = %d", id),
			fmt.Sprintf("UPDATE t SET id = %d, v = v + 1 WHERE id = %d AND NOT EXISTS (SELECT FROM t WHERE id = %[1]d)", id, other),
			fmt.Sprintf("INSERT INTO l VALUES (%d)", v),
			fmt.Sprintf("DELETE FROM l WHERE ctid = (SELECT min(ctid) FROM l WHERE v = %d)", v),
		}[kind])
		if kind == 2 {
			again = append(again, func() *pipeline.Transaction { return w.chunk(i, keyed[0], fmt.Sprintf("id = %d", id)) })
		}
	}
	work := []func() *pipeline.Transaction{}
	for shard := range 2 {
		for from := 0; from < 60; from += 15 {
			work = append(work, func() *pipeline.Transaction {
				return w.chunk(shard, keyed[0], fmt.Sprintf("id >= %d AND id < %d", from, from+15))
			})
		}
		work = append(work, func() *pipeline.Transaction { return w.chunk(shard, keyless[0], "true") })
	}
	dice.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
	for _, chunk := range work {
		for range dice.IntN(6) {
			change()
		}
		w.must(append(w.capture(), chunk())...)
		if dice.IntN(3) == 0 {
			w.restart()
		}
	}
	for _, chunk := range again {
		w.must(chunk())
	}
	w.must(w.end(append(keyed, keyless...)...))
	w.same("t", "l")
}
