package postgres_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
	"shardcdc/pipeline"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/throwawaytest"
	"shardcdc/pipeline/wire"
)

// server is one real PostgreSQL for all tests; each test has databases of its own on it.
var server *throwaway.Server

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	code := throwawaytest.Main(m, "apply", &server)
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// database is a connection to a database of its own.
type database struct {
	t    testing.TB
	name string
	conn *pgconn.PgConn
}

func newDatabase(t testing.TB, name string) *database {
	t.Helper()
	admin := connect(t, "postgres")
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+name).ReadAll(); err != nil {
		t.Fatal(err)
	}
	if err := admin.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := &database{t: t, name: name, conn: connect(t, name)}
	d.exec(`SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = postgres; SET extra_float_digits = 1;
		SET bytea_output = hex; SET lc_monetary = 'C'; SET client_encoding = 'UTF8'`)
	t.Cleanup(func() { _ = d.conn.Close(context.Background()) })
	return d
}

func connect(t testing.TB, db string) *pgconn.PgConn {
	t.Helper()
	c, err := pgconn.Connect(t.Context(), server.DSNFor(db))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (d *database) exec(sql string) {
	d.t.Helper()
	if _, err := d.conn.Exec(d.t.Context(), sql).ReadAll(); err != nil {
		d.t.Fatalf("%s: %v\n%.300s", d.name, err, sql)
	}
}

// rows is a query's result, a line for each row.
func (d *database) rows(sql string) string {
	d.t.Helper()
	r, err := d.conn.Exec(d.t.Context(), sql).ReadAll()
	if err != nil {
		d.t.Fatalf("%s: %v\n%.300s", d.name, err, sql)
	}
	var b strings.Builder
	for _, row := range r[len(r)-1].Rows {
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

// world is shards and a target: real pgoutput bytes on one side, a real target on the other.
type world struct {
	t      testing.TB
	shards []*database
	target *database
	cfg    postgres.Config
	opens  apply.Target // nil: a new one of cfg every time

	binary string // pgoutput's option, "true" or ""

	csn     pipeline.CSN
	seq     pipeline.Seq
	session apply.Session
	at      apply.Progress
	careful bool // see apply.Group
}

// newWorld makes the databases; a name is used once.
func newWorld(t testing.TB, shards int) *world {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "_", "#", "_", " ", "_").Replace(t.Name()))
	name = name[max(0, len(name)-40):]
	w := &world{t: t, target: newDatabase(t, name+"_t")}
	for i := range shards {
		s := newDatabase(t, fmt.Sprintf("%s_s%d", name, i))
		s.exec("CREATE PUBLICATION p FOR ALL TABLES" + publicationOptions())
		slot := fmt.Sprintf("%s_s%d", name, i)
		s.exec("SELECT pg_create_logical_replication_slot('" + slot + "', 'pgoutput')")
		t.Cleanup(func() { s.drop(slot) })
		w.shards = append(w.shards, s)
	}
	w.cfg = postgres.Config{DSN: server.DSNFor(w.target.name), Subscription: "s", Shards: shards}
	return w
}

// publicationOptions are those without which PostgreSQL 18 refuses to update a table whose whole row, generated columns
// included, is the replica identity. So there, unlike before, the source sends generated columns.
func publicationOptions() string {
	if server.Version() < 18 {
		return ""
	}
	return " WITH (publish_generated_columns = stored)"
}

func (d *database) drop(slot string) {
	_, _ = d.conn.Exec(context.Background(), "SELECT pg_drop_replication_slot('"+slot+"')").ReadAll()
}

// both runs sql on every shard and on the target.
func (w *world) both(sql string) {
	w.t.Helper()
	w.source(sql)
	w.target.exec(sql)
}

// source runs sql on every shard.
func (w *world) source(sql string) {
	w.t.Helper()
	for _, s := range w.shards {
		s.exec(sql)
	}
}

// capture reads what happened on every shard since the last call, as transactions of one fragment each, shard
// after shard.
func (w *world) capture() []*pipeline.Transaction {
	w.t.Helper()
	var all []*pipeline.Transaction
	for i, s := range w.shards {
		r := s.conn.ExecParams(w.t.Context(), `SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
			'proto_version', '1', 'publication_names', 'p', 'messages', 'true', 'binary', $2)`,
			[][]byte{[]byte(s.name), []byte(cmp.Or(w.binary, "false"))}, nil, nil, []int16{1}).Read()
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

// together makes one distributed transaction of what capture returned.
func (w *world) together(txs []*pipeline.Transaction) []*pipeline.Transaction {
	one := &pipeline.Transaction{CSN: txs[0].CSN, CommitTime: txs[0].CommitTime}
	for _, tx := range txs {
		one.Fragments = append(one.Fragments, tx.Fragments...)
	}
	return []*pipeline.Transaction{one}
}

// fragments puts pgoutput messages together; empty transactions are left out.
func fragments(t testing.TB, shard pipeline.ShardID, messages [][][]byte) (list []*pipeline.Fragment) {
	t.Helper()
	relations := map[uint32]*pipeline.Relation{}
	used := map[uint32]*pipeline.Relation{}
	types := map[uint32]pipeline.Type{}
	var f *pipeline.Fragment
	var c pipeline.Change
	for _, row := range messages {
		msg := row[0]
		switch msg[0] {
		case 'B':
			f = &pipeline.Fragment{Shard: shard}
			used = map[uint32]*pipeline.Relation{}
		case 'C':
			if f.Changes > 0 {
				list = append(list, f)
			}
		case 'O':
		case 'Y':
			cur := pipeline.CursorOf(msg[1:])
			y := pipeline.Type{OID: cur.Uint32(), Namespace: cur.CString(), Name: cur.CString()}
			y.Namespace = cmp.Or(y.Namespace, "pg_catalog")
			types[y.OID] = y
		case 'R':
			r, err := pipeline.ParseRelation(msg, func(oid uint32) (y pipeline.Type, ok bool) { y, ok = types[oid]; return y, ok })
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

// group makes the next group of transactions.
func (w *world) group(txs []*pipeline.Transaction) apply.Group {
	w.seq++
	last := w.at.CSN
	if n := len(txs); n > 0 {
		last = txs[n-1].CSN
	}
	u := &wire.Unit{Previous: w.at.CSN, Last: last, Transactions: txs}
	return apply.Group{
		From: w.at, To: apply.Progress{StreamID: "stream", CSN: last, Seq: w.seq},
		Units: []apply.Unit{{Unit: u, End: apply.End{Seq: w.seq}}},
	}
}

// try applies transactions in one group.
func (w *world) try(txs []*pipeline.Transaction) error {
	w.t.Helper()
	if w.session == nil {
		w.open()
	}
	g := w.group(txs)
	g.Careful = w.careful
	if err := w.session.Apply(w.t.Context(), g); err != nil {
		w.session.Close(w.t.Context())
		w.session = nil
		return err
	}
	w.at = g.To
	return nil
}

func (w *world) open() {
	w.t.Helper()
	target, err := w.opens, error(nil)
	if target == nil {
		target, err = postgres.New(w.cfg)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if w.session, err = target.Open(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	s := w.session
	w.t.Cleanup(func() { s.Close(context.Background()) })
	if w.at, err = s.Progress(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// replay applies all that happened on the shards.
func (w *world) replay() {
	w.t.Helper()
	if err := w.try(w.capture()); err != nil {
		w.t.Fatal(err)
	}
}

// same compares tables of the first shard and the target, row by row as text.
func (w *world) same(tables ...string) {
	w.t.Helper()
	for _, table := range tables {
		sql := "SELECT r FROM (SELECT t::text FROM " + table + " t) x(r) ORDER BY r COLLATE \"C\""
		if got, want := w.target.rows(sql), w.shards[0].rows(sql); got != want {
			w.t.Errorf("table %s differs:\ntarget:\n%.2000s\nsource:\n%.2000s", table, got, want)
		}
	}
}

// proves says that a comparison of these tables meant something: they are not empty.
func (w *world) proves(tables ...string) {
	w.t.Helper()
	for _, table := range tables {
		if w.shards[0].rows("SELECT 1 FROM "+table+" LIMIT 1") == "" {
			w.t.Errorf("table %s is empty: it proves nothing", table)
		}
	}
}
