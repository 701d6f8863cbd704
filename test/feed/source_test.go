package feed

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/output/sql"
	"shardcdc/pipeline"
	"shardcdc/pipeline/textform"
)

// database is a connection to a database of its own.
type database struct {
	t    testing.TB
	name string
	conn *pgconn.PgConn
}

func newDatabase(t testing.TB, name string) *database {
	t.Helper()
	admin := open(t, "postgres")
	admin.exec("DROP DATABASE IF EXISTS "+name, "CREATE DATABASE "+name)
	d := open(t, name)
	for _, s := range textform.Settings() {
		if s[0] != "search_path" {
			d.exec(fmt.Sprintf("SET %s = '%s'", s[0], s[1]))
		}
	}
	return d
}

func open(t testing.TB, name string) *database {
	t.Helper()
	c, err := pgconn.Connect(t.Context(), server.DSNFor(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return &database{t, name, c}
}

func (d *database) exec(sql ...string) {
	d.t.Helper()
	for _, s := range sql {
		if _, err := d.conn.Exec(d.t.Context(), s).ReadAll(); err != nil {
			d.t.Fatalf("%s: %v\n%.300s", d.name, err, s)
		}
	}
}

// rows is a query's result.
func (d *database) rows(sql string) [][][]byte {
	d.t.Helper()
	r, err := d.conn.Exec(d.t.Context(), sql).ReadAll()
	if err != nil {
		d.t.Fatalf("%s: %v\n%.300s", d.name, err, sql)
	}
	return r[len(r)-1].Rows
}

// text is a query's result, a line for each row.
func (d *database) text(sql string) string {
	d.t.Helper()
	var b strings.Builder
	for _, row := range d.rows(sql) {
		for i, v := range row {
			if i > 0 {
				b.WriteByte('|')
			}
			if v == nil {
				b.WriteString("∅")
			}
			b.Write(v)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// world is shards whose changes are read as PostgreSQL sends them.
type world struct {
	t       testing.TB
	shards  []*database
	csn     pipeline.CSN
	written pipeline.CSN
}

func newWorld(t testing.TB, shards int) *world {
	t.Helper()
	w := &world{t: t}
	name := strings.ToLower(strings.NewReplacer("/", "_", " ", "_").Replace(t.Name()))
	for i := range shards {
		s := newDatabase(t, fmt.Sprintf("%s_s%d", name, i))
		s.exec("CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root = true)", "SELECT pg_create_logical_replication_slot('"+s.name+"', 'pgoutput')")
		t.Cleanup(func() {
			_, _ = s.conn.Exec(context.Background(), "SELECT pg_drop_replication_slot('"+s.name+"')").ReadAll()
		})
		w.shards = append(w.shards, s)
	}
	return w
}

func (w *world) source(sql ...string) {
	w.t.Helper()
	for _, s := range w.shards {
		s.exec(sql...)
	}
}

func (w *world) dsns() (all []string) {
	for _, s := range w.shards {
		all = append(all, server.DSNFor(s.name))
	}
	return all
}

// capture reads what happened since the last call, as transactions of one fragment each, shard after shard.
func (w *world) capture() (all []*pipeline.Transaction) {
	w.t.Helper()
	for i, s := range w.shards {
		r := s.conn.ExecParams(w.t.Context(), `SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
			'proto_version', '1', 'publication_names', 'p', 'messages', 'true')`, [][]byte{[]byte(s.name)}, nil, nil, []int16{1}).Read()
		if r.Err != nil {
			w.t.Fatal(r.Err)
		}
		for _, f := range fragments(w.t, pipeline.ShardID(i), r.Rows) {
			w.csn++
			all = append(all, &pipeline.Transaction{CSN: w.csn, CommitTime: f.Time, Fragments: []*pipeline.Fragment{f}})
		}
	}
	return all
}

// together makes one distributed transaction of several.
func together(txs []*pipeline.Transaction) []*pipeline.Transaction {
	one := &pipeline.Transaction{CSN: txs[len(txs)-1].CSN, GID: "it's\n-- \"one\"\n; DROP TABLE types", CommitTime: txs[0].CommitTime}
	for _, tx := range txs {
		one.Fragments = append(one.Fragments, tx.Fragments...)
	}
	return []*pipeline.Transaction{one}
}

// fragments puts pgoutput messages together; empty transactions are left out.
func fragments(t testing.TB, shard pipeline.ShardID, messages [][][]byte) (list []*pipeline.Fragment) {
	t.Helper()
	relations, types := map[uint32]*pipeline.Relation{}, map[uint32]pipeline.Type{}
	used := map[uint32]*pipeline.Relation{}
	var f *pipeline.Fragment
	var c pipeline.Change
	for _, row := range messages {
		msg := row[0]
		switch msg[0] {
		case 'B':
			cur := pipeline.CursorOf(msg[1:])
			f = &pipeline.Fragment{Shard: shard, End: pipeline.LSN(cur.Uint64()), Time: pipeline.Timestamp(cur.Uint64()), XID: pipeline.XID(cur.Uint32())}
			used = map[uint32]*pipeline.Relation{}
		case 'C':
			if f.Changes > 0 {
				list = append(list, f)
			}
		case 'Y':
			cur := pipeline.CursorOf(msg[1:])
			typ := pipeline.Type{OID: cur.Uint32(), Namespace: cur.CString(), Name: cur.CString()}
			if typ.Namespace == "" {
				typ.Namespace = "pg_catalog"
			}
			types[typ.OID] = typ
		case 'O':
		case 'R':
			r, err := pipeline.ParseRelation(msg, func(oid uint32) (pipeline.Type, bool) { typ, ok := types[oid]; return typ, ok })
			if err != nil {
				t.Fatal(err)
			}
			relations[r.ID] = r
		default:
			if err := pipeline.ParseChange(msg, &c); err != nil {
				t.Fatal(err)
			}
			ids := append([]uint32(nil), c.TruncateIDs...)
			if c.RelationID != 0 {
				ids = append(ids, c.RelationID)
			}
			for _, id := range ids {
				if used[id] != relations[id] {
					used[id] = relations[id]
					f.Relations = append(f.Relations, pipeline.RelationUse{Offset: int64(len(f.Body)), Relation: relations[id]})
				}
			}
			f.Append(msg)
		}
	}
	return list
}

func (w *world) names() (all []string) {
	for i := range w.shards {
		all = append(all, string(rune('a'+i)))
	}
	return all
}

// encode writes transactions, with the settings in front.
func (w *world) encode(e *sql.Encoder, dialect string, txs []*pipeline.Transaction) string {
	w.t.Helper()
	payloads, err := e.Encode(&pipeline.Batch{Previous: w.written, Transactions: txs})
	if err != nil {
		w.t.Fatal(err)
	}
	b := strings.Builder{}
	b.WriteString(sql.Settings(dialect))
	for _, p := range payloads {
		b.Write(p.Data)
	}
	w.written = w.csn
	return b.String()
}
