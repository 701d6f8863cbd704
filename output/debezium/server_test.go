package debezium

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/textform"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/throwawaytest"
)

// server is one real PostgreSQL for all tests.
var server *throwaway.Server

func TestMain(m *testing.M) { os.Exit(throwawaytest.Main(m, "debezium", &server)) }

// source is a database whose changes are captured as pgoutput sends them.
type source struct {
	t     *testing.T
	name  string
	conn  *pgconn.PgConn
	types map[uint32]pipeline.Type
	rels  map[uint32]*pipeline.Relation
}

func newSource(t *testing.T, name string) *source {
	t.Helper()
	s := &source{t: t, name: name, types: map[uint32]pipeline.Type{}, rels: map[uint32]*pipeline.Relation{}}
	admin := s.connect("postgres")
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+name).ReadAll(); err != nil {
		t.Fatal(err)
	}
	if err := admin.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.conn = s.connect(name)
	for _, set := range textform.Settings() {
		if set[0] != "search_path" { // statements are written without the schema
			s.exec(fmt.Sprintf("SET %s = '%s'", set[0], set[1]))
		}
	}
	options := ""
	if server.Version() >= 18 {
		options = " WITH (publish_generated_columns = stored)"
	}
	s.exec("CREATE PUBLICATION p FOR ALL TABLES" + options)
	s.exec("SELECT pg_create_logical_replication_slot('" + name + "', 'pgoutput')")
	t.Cleanup(s.drop)
	return s
}

// drop removes the database, so that a test may run again.
func (s *source) drop() {
	ctx := context.Background()
	_, err := s.conn.Exec(ctx, "SELECT pg_drop_replication_slot('"+s.name+"')").ReadAll()
	err = errors.Join(err, s.conn.Close(ctx))
	admin, dialErr := pgconn.Connect(ctx, server.DSNFor("postgres"))
	if dialErr == nil {
		_, dialErr = admin.Exec(ctx, "DROP DATABASE "+s.name+" WITH (FORCE)").ReadAll()
		dialErr = errors.Join(dialErr, admin.Close(ctx))
	}
	if err = errors.Join(err, dialErr); err != nil {
		s.t.Error(err)
	}
}

func (s *source) connect(db string) *pgconn.PgConn {
	s.t.Helper()
	c, err := pgconn.Connect(s.t.Context(), server.DSNFor(db))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *source) exec(sql string) {
	s.t.Helper()
	if _, err := s.conn.Exec(s.t.Context(), sql).ReadAll(); err != nil {
		s.t.Fatalf("%v\n%.500s", err, sql)
	}
}

// capture returns what was committed since the last call, with numbers that do not depend on the server: the n-th fragment has
// xid 500+n and ends at 0/16E3778+n.
func (s *source) capture() (list []*pipeline.Fragment) {
	s.t.Helper()
	r := s.conn.ExecParams(s.t.Context(), `SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
		'proto_version', '1', 'publication_names', 'p', 'messages', 'true')`, [][]byte{[]byte(s.name)}, nil, nil, []int16{1}).Read()
	if r.Err != nil {
		s.t.Fatal(r.Err)
	}
	var f *pipeline.Fragment
	for _, row := range r.Rows {
		switch msg := row[0]; msg[0] {
		case 'B':
			n := len(list) + 1
			f = &pipeline.Fragment{XID: pipeline.XID(500 + n), End: 0x16E3778 + pipeline.LSN(n)}
		case 'C':
			if f.Changes > 0 {
				list = append(list, f)
			}
		case 'Y':
			c := pipeline.CursorOf(msg[1:])
			typ := pipeline.Type{OID: c.Uint32(), Namespace: c.CString(), Name: c.CString()}
			if typ.Namespace == "" {
				typ.Namespace = "pg_catalog"
			}
			s.types[typ.OID] = typ
		case 'O':
		case 'R':
			s.describe(msg)
		default:
			s.change(f, msg)
		}
	}
	return list
}

func (s *source) describe(msg []byte) {
	r, err := pipeline.ParseRelation(msg, func(oid uint32) (pipeline.Type, bool) {
		typ, ok := s.types[oid]
		return typ, ok
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.rels[r.ID] = r
}

func (s *source) change(f *pipeline.Fragment, msg []byte) {
	var c pipeline.Change
	if err := pipeline.ParseChange(msg, &c); err != nil {
		s.t.Fatal(err)
	}
	if c.Op == pipeline.Message && msg[1] == 1 { // the position of the record
		binary.BigEndian.PutUint64(msg[2:], 7)
	}
	ids := append([]uint32(nil), c.TruncateIDs...)
	if c.RelationID != 0 {
		ids = append(ids, c.RelationID)
	}
	for _, id := range ids {
		f.Relations = append(f.Relations, pipeline.RelationUse{Offset: int64(len(f.Body)), Relation: s.rels[id]})
	}
	f.Append(msg)
}

// commitTime is that of every transaction.
var commitTime = func() (t pipeline.Timestamp) {
	if err := t.UnmarshalText([]byte("2023-11-14T22:13:20.123456Z")); err != nil {
		panic(err)
	}
	return t
}()

// options reads time=… decimal=… and so on; what is not given has its default.
func options(t *testing.T, words []string) format.DebeziumOptions {
	t.Helper()
	f := format.Format{Name: format.JSON, JSON: format.JSONOptions{Layout: format.ByRow, Flavour: format.Debezium}}
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "schema":
			f.Debezium.Schema = true
		case "decimal":
			f.Debezium.Decimal = value
		case "binary":
			f.Debezium.Binary = value
		case "time":
			f.Debezium.Time = value
		case "interval":
			f.Debezium.Interval = value
		case "hstore":
			f.Debezium.HStore = value
		case "tombstones":
			f.Debezium.Tombstones = true
		case "truncate":
			f.Debezium.Truncate = true
		default:
			t.Fatalf("unknown option %q", word)
		}
	}
	if err := f.Validate(); err != nil {
		t.Fatal(err)
	}
	return f.WithDefaults().Debezium
}

// newEncoder is of the subscription srv with the shards a and b.
func newEncoder(t *testing.T, opts format.DebeziumOptions) *Encoder {
	t.Helper()
	e, err := New(Config{Subscription: "srv", Shards: []Shard{{"a", "app"}, {"b", "app2"}}, Debezium: opts})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// transactions has each fragment as a transaction of its own.
func transactions(fragments []*pipeline.Fragment) (list []*pipeline.Transaction) {
	for i, f := range fragments {
		list = append(list, &pipeline.Transaction{CSN: pipeline.CSN(1001 + i), CommitTime: commitTime, Fragments: []*pipeline.Fragment{f}})
	}
	return list
}

func encode(t *testing.T, e *Encoder, txs ...*pipeline.Transaction) []output.Payload {
	t.Helper()
	payloads, err := e.Encode(&pipeline.Batch{Previous: txs[0].CSN - 1, Transactions: txs})
	if err != nil {
		t.Fatal(err)
	}
	return payloads
}

func batchOf(fragments []*pipeline.Fragment) *pipeline.Batch {
	return &pipeline.Batch{Previous: 1000, Transactions: transactions(fragments)}
}
