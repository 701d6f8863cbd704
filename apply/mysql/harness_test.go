package mysql_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"shardcdc/apply"
	"shardcdc/apply/mysql"
	"shardcdc/pipeline"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/throwawaytest"
	"shardcdc/pipeline/wire"
)

// One real PostgreSQL and one real MariaDB for all tests; each test has databases of its own.
var (
	server *throwaway.Server
	maria  *throwaway.MariaDB
)

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) (code int) {
	var err error
	if maria, err = throwaway.StartMariaDB(context.Background(), ""); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code = throwawaytest.Main(m, "mysql", &server)
	if err := errors.Join(maria.Close(), goleak.Find()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// world is shards and a target: real pgoutput bytes on one side, a real MariaDB on the other.
type world struct {
	t      testing.TB
	name   string
	shards []*pgconn.PgConn
	target *sql.DB
	cfg    mysql.Config

	csn     pipeline.CSN
	seq     pipeline.Seq
	session apply.Session
	at      apply.Progress
	careful bool
	skips   map[pipeline.CSN]apply.Skip
}

// worlds are counted, so that a test that runs again has other databases.
var worlds atomic.Int64

func newWorld(t testing.TB, shards int) *world {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "_", "#", "_", " ", "_", ",", "").Replace(t.Name()))
	name = fmt.Sprintf("%s_%d", name[max(0, len(name)-40):], worlds.Add(1))
	w := &world{t: t, name: name}
	for i := range shards {
		db := fmt.Sprintf("%s_s%d", name, i)
		admin := w.connect("postgres")
		w.execPG(admin, "CREATE DATABASE "+db)
		if err := admin.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := w.connect(db)
		w.execPG(c, `SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = postgres; SET extra_float_digits = 1; SET bytea_output = hex;
			SET lc_monetary = 'C'; SET client_encoding = 'UTF8'; CREATE PUBLICATION p FOR ALL TABLES`)
		w.execPG(c, "SELECT pg_create_logical_replication_slot('"+db+"', 'pgoutput')")
		t.Cleanup(func() {
			_, _ = c.Exec(context.Background(), "SELECT pg_drop_replication_slot('"+db+"')").ReadAll()
			_ = c.Close(context.Background())
		})
		w.shards = append(w.shards, c)
	}
	var err error
	if w.target, err = sql.Open("mysql", strings.Replace(maria.DriverDSN(), "/cdc?", "/?", 1)); err != nil {
		t.Fatal(err)
	}
	w.target.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = w.target.Close() })
	w.exec("CREATE DATABASE " + name + "; USE " + name + "; SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES'")
	w.cfg = mysql.Config{DSN: strings.Replace(maria.DSN(), "/cdc", "/"+name, 1), Subscription: "s", Shards: shards, CreateTables: true}
	return w
}

func (w *world) connect(db string) *pgconn.PgConn {
	w.t.Helper()
	c, err := pgconn.Connect(w.t.Context(), server.DSNFor(db))
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) execPG(c *pgconn.PgConn, text string) {
	w.t.Helper()
	if _, err := c.Exec(w.t.Context(), text).ReadAll(); err != nil {
		w.t.Fatalf("%v\n%.300s", err, text)
	}
}

// source runs statements on every shard.
func (w *world) source(text string) {
	w.t.Helper()
	for _, s := range w.shards {
		w.execPG(s, text)
	}
}

// exec runs statements on the target.
func (w *world) exec(text string) {
	w.t.Helper()
	if _, err := w.target.ExecContext(w.t.Context(), text); err != nil {
		w.t.Fatalf("%v\n%.300s", err, text)
	}
}

// rows is a query's result on the target, a line for each row.
func (w *world) rows(text string) string {
	w.t.Helper()
	rows, err := w.target.QueryContext(w.t.Context(), text)
	if err != nil {
		w.t.Fatalf("%v\n%.300s", err, text)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		w.t.Fatal(err)
	}
	var b strings.Builder
	for rows.Next() {
		values, into := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			w.t.Fatal(err)
		}
		writeRow(&b, len(values), func(i int) (string, bool) { return values[i].String, values[i].Valid })
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	return b.String()
}

// rowsPG is the same of a shard.
func (w *world) rowsPG(shard int, text string) string {
	w.t.Helper()
	r, err := w.shards[shard].Exec(w.t.Context(), text).ReadAll()
	if err != nil {
		w.t.Fatalf("%v\n%.300s", err, text)
	}
	var b strings.Builder
	for _, row := range r[len(r)-1].Rows {
		writeRow(&b, len(row), func(i int) (string, bool) { return string(row[i]), row[i] != nil })
	}
	return b.String()
}

func writeRow(b *strings.Builder, n int, value func(int) (string, bool)) {
	for i := range n {
		if i > 0 {
			b.WriteByte('|')
		}
		text, ok := value(i)
		if !ok {
			text = "∅"
		}
		b.WriteString(text)
	}
	b.WriteByte('\n')
}

// want compares a query's rows on the target.
func (w *world) want(query, want string) {
	w.t.Helper()
	if got := strings.TrimSuffix(strings.ReplaceAll(w.rows(query), "\n", "; "), "; "); got != want {
		w.t.Errorf("%s\n%s\nwant\n%s", query, got, want)
	}
}

// capture reads what happened on every shard since the last call, as transactions of one fragment each.
func (w *world) capture() []*pipeline.Transaction {
	w.t.Helper()
	var all []*pipeline.Transaction
	for i, s := range w.shards {
		r := s.ExecParams(w.t.Context(), `SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
			'proto_version', '1', 'publication_names', 'p', 'messages', 'true')`, [][]byte{fmt.Appendf(nil, "%s_s%d", w.name, i)}, nil, nil, []int16{1}).Read()
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
func together(txs []*pipeline.Transaction) []*pipeline.Transaction {
	one := &pipeline.Transaction{CSN: txs[len(txs)-1].CSN, CommitTime: txs[0].CommitTime}
	for _, tx := range txs {
		one.Fragments = append(one.Fragments, tx.Fragments...)
	}
	return []*pipeline.Transaction{one}
}

// fragments puts pgoutput messages together; empty transactions are left out.
func fragments(t testing.TB, shard pipeline.ShardID, messages [][][]byte) (list []*pipeline.Fragment) {
	t.Helper()
	relations, used, types := map[uint32]*pipeline.Relation{}, map[uint32]*pipeline.Relation{}, map[uint32]pipeline.Type{}
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
	return apply.Group{
		From: w.at, To: apply.Progress{StreamID: "stream", CSN: last, Seq: w.seq, Stamp: int64(w.seq) * 1000}, Careful: w.careful, Skips: w.skips,
		Units: []apply.Unit{{Unit: &wire.Unit{Previous: w.at.CSN, Last: last, Transactions: txs}, End: apply.End{Seq: w.seq}}},
	}
}

// try applies transactions in one group.
func (w *world) try(txs []*pipeline.Transaction) error {
	w.t.Helper()
	if w.session == nil {
		w.session, w.at = w.open()
	}
	g := w.group(txs)
	if err := w.session.Apply(w.t.Context(), g); err != nil {
		w.session.Close(w.t.Context())
		w.session = nil
		return err
	}
	w.at = g.To
	return nil
}

func (w *world) open() (apply.Session, apply.Progress) {
	w.t.Helper()
	target, err := mysql.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := target.Open(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close(context.Background()) })
	at, err := s.Progress(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return s, at
}

// replay applies all that happened on the shards, in groups of one transaction and in one group by turns.
func (w *world) replay() {
	w.t.Helper()
	if err := w.try(w.capture()); err != nil {
		w.t.Fatal(err)
	}
}

// blocked applies what must be refused, first as usual, then carefully, and returns the careful error.
func (w *world) blocked(txs []*pipeline.Transaction) *apply.Blocked {
	w.t.Helper()
	var blocked *apply.Blocked
	for _, w.careful = range []bool{false, true} {
		if err := w.try(txs); !errors.As(err, &blocked) {
			w.t.Fatalf("careful %v: %v, want Blocked", w.careful, err)
		}
	}
	w.careful = false
	return blocked
}
