package copier

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/throwawaytest"
)

// server is shared by the tests of this package; each has a database of its own.
var server *throwaway.Server

func TestMain(m *testing.M) { os.Exit(throwawaytest.Main(m, "copier", &server)) }

// patience is how long a condition may take on a busy machine.
const patience = 30 * time.Second

// shard is a database with a slot, and a session that reads it.
type shard struct {
	t testing.TB
	*Session
	dsn   string
	slot  string
	admin *Session // writes
}

var databases atomic.Int64

// newShard makes a database and runs statements in it; the slot is made before them.
func newShard(t testing.TB, statements ...string) *shard {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	name := fmt.Sprintf("c%d", databases.Add(1))
	exec(t, connect(t, Source{DSN: server.DSN()}), "CREATE DATABASE "+name)
	s := &shard{t: t, dsn: server.DSNFor(name), slot: "slot_" + name}
	s.admin = connect(t, Source{DSN: s.dsn})
	exec(t, s.admin, "SET search_path = public")
	exec(t, s.admin, "SELECT pg_catalog.pg_create_logical_replication_slot('"+s.slot+"', 'pgoutput')")
	t.Cleanup(func() { exec(t, s.admin, "SELECT pg_catalog.pg_drop_replication_slot('"+s.slot+"')") })
	s.exec(statements...)
	s.Session = s.open("p")
	return s
}

// open is another session.
func (s *shard) open(publications ...string) *Session {
	s.t.Helper()
	return connect(s.t, Source{Shard: 4, Name: "a", DSN: s.dsn, Publications: publications})
}

func connect(t testing.TB, src Source) *Session {
	t.Helper()
	s, err := Open(context.Background(), src)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// exec runs each statement by itself.
func exec(t testing.TB, s *Session, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := s.query(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// cell is the only value that a query gives.
func cell(t testing.TB, s *Session, sql string) string {
	t.Helper()
	results, err := s.query(context.Background(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return string(results[0].Rows[0][0])
}

func (s *shard) exec(statements ...string) {
	s.t.Helper()
	exec(s.t, s.admin, statements...)
}

func (s *shard) cell(sql string) string {
	s.t.Helper()
	return cell(s.t, s.admin, sql)
}

// table describes public.name.
func (s *shard) table(name string) *Table {
	s.t.Helper()
	t, err := s.Describe(s.t.Context(), "public", name)
	if err != nil {
		s.t.Fatal(err)
	}
	if t.Fault != "" {
		s.t.Fatal(t.Fault)
	}
	return t
}

// limits of chunks.
type limits struct{ rows, bytes int }

var roomy = limits{1 << 30, 1 << 30}

// read reads ranges in chunks and returns all messages, in the order read.
func (s *shard) read(table *Table, l limits, ranges ...Range) (messages [][]byte, chunks int) {
	s.t.Helper()
	for _, r := range ranges {
		for end := false; !end; chunks++ {
			taken := 0
			res, err := s.Chunk(s.t.Context(), Request{
				ID: "c", Table: table, Range: r, Rows: l.rows, BytesMax: l.bytes, Taken: func(fold.Snapshot) { taken++ },
			})
			if err != nil {
				s.t.Fatal(err)
			}
			split := messagesOf(s.t, res.Body)
			if taken != 1 || res.ID != "c" || len(split) != res.Rows || (res.Last == nil) != (res.Rows == 0) || res.Rows > l.rows {
				s.t.Fatalf("taken %d times, chunk %q with %d of %d rows up to %q", taken, res.ID, len(split), res.Rows, res.Last)
			}
			if res.Rows == 0 && !res.End {
				s.t.Fatal("a chunk without rows does not end its range")
			}
			messages = append(messages, split...)
			r.After, end = res.Last, res.End
		}
	}
	return messages, chunks
}

// messagesOf cuts a body, and checks each message.
func messagesOf(t testing.TB, body []byte) (messages [][]byte) {
	t.Helper()
	var c pipeline.Change
	for len(body) > 0 {
		n := binary.BigEndian.Uint32(body)
		msg := body[4 : 4+n]
		if err := pipeline.ParseChange(msg, &c); err != nil || c.Op != pipeline.Read {
			t.Fatalf("%s: %v", c.Op, err)
		}
		messages = append(messages, msg)
		body = body[4+n:]
	}
	return messages
}

// decoded is what pgoutput says about a relation.
type decoded struct {
	relation *pipeline.Relation
	inserts  [][]byte // as messages of kind Read, sorted
}

// decode reads the slot, in a session with the settings of every session.
func (s *shard) decode(publication, name string) (d decoded) {
	s.t.Helper()
	results, err := s.open().query(s.t.Context(), fmt.Sprintf(
		"SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes('%s', NULL, NULL, 'proto_version', '1', 'publication_names', %s)",
		s.slot, literal(identifier(publication))))
	if err != nil {
		s.t.Fatal(err)
	}
	types := map[uint32]pipeline.Type{}
	for _, row := range results[0].Rows {
		msg, err := hex.DecodeString(strings.TrimPrefix(string(row[0]), `\x`))
		if err != nil {
			s.t.Fatal(err)
		}
		switch msg[0] {
		case 'Y':
			c := pipeline.CursorOf(msg[1:])
			t := pipeline.Type{OID: c.Uint32(), Namespace: c.CString(), Name: c.CString()}
			if t.Namespace == "" {
				t.Namespace = "pg_catalog"
			}
			types[t.OID] = t
		case 'R':
			r, err := pipeline.ParseRelation(msg, func(oid uint32) (pipeline.Type, bool) { t, ok := types[oid]; return t, ok })
			if err != nil {
				s.t.Fatal(err)
			}
			if r.Name == name {
				d.relation = r
			}
		case 'I':
			if d.relation != nil && binary.BigEndian.Uint32(msg[1:]) == d.relation.ID {
				msg[0] = byte(pipeline.Read)
				d.inserts = append(d.inserts, msg)
			}
		}
	}
	slices.SortFunc(d.inserts, bytes.Compare)
	return d
}

// equalRows compares messages whatever their order.
func equalRows(t testing.TB, got, want [][]byte) {
	t.Helper()
	got = slices.SortedFunc(slices.Values(got), bytes.Compare)
	want = slices.SortedFunc(slices.Values(want), bytes.Compare)
	if slices.EqualFunc(got, want, bytes.Equal) {
		return
	}
	t.Errorf("%d rows, want %d", len(got), len(want))
	shown := 0
	for i := range max(len(got), len(want)) {
		var g, w []byte
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if !bytes.Equal(g, w) && shown < 3 {
			shown++
			t.Errorf("row %d\n got %.400q\nwant %.400q", i, g, w)
		}
	}
}

// memory is a File.
type memory struct {
	bytes.Buffer
	sealed, released bool
	fail             error
}

func (m *memory) Write(p []byte) (int, error) {
	if m.fail != nil {
		return 0, m.fail
	}
	return m.Buffer.Write(p)
}
func (m *memory) Seal() error { m.sealed = true; return nil }
func (m *memory) Size() int64 { return int64(m.Len()) }
func (m *memory) Release()    { m.released = true }
func (m *memory) Open() (io.ReadCloser, error) {
	return nil, errors.New("not for reading")
}
