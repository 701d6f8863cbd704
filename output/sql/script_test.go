package sql

import (
	"encoding/binary"
	"strconv"
	"strings"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"

	"github.com/cockroachdb/datadriven"
)

// TestScripts runs testdata/*.txt. Commands:
//
//	encoder [dialect=mysql] [idempotent] [create] [truncate=apply|ignore] [moves=N]    begins anew, with 2 shards unless shards=N
//	relation NAME id=N [identity=d|n|f|i] [schema=…] [table=…]    a new version of a table; lines: column type-OID [key] [base=type|type=own]
//	encode [previous=N] [large]               a batch, printed as its payloads; large: its bodies are elsewhere
//
// Lines of encode:
//
//	tx CSN [gid]                              a transaction, committed CSN microseconds after 2000-01-01
//	fragment SHARD XID END [origin]           a fragment of it
//	insert NAME N values…                     update NAME [K values…|O values…] N values…     delete NAME K|O values…     read NAME N values…
//	truncate [cascade] [restart] NAME…        message PREFIX CONTENT
//	use NAME                                  the fragment lists the table, and has no change of it
//
// A value is NULL, UNCHANGED, BINARY, a word, or a string with Go's quotes.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{relations: make(map[string]*pipeline.Relation)}
		t.Cleanup(func() { movesMax = 1_000_000 })
		s.begin(t, &datadriven.TestData{})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "encoder":
				s.begin(t, d)
				return ""
			case "relation":
				s.relation(t, d)
				return ""
			case "encode":
				return s.encode(t, d)
			}
			t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
			return ""
		})
	})
}

type script struct {
	relations map[string]*pipeline.Relation
	encoder   *Encoder
}

func (s *script) begin(t *testing.T, d *datadriven.TestData) {
	conf, shards := Config{Options: format.SQLOptions{Dialect: format.PostgreSQL}}, 2
	movesMax = 1_000_000
	d.MaybeScanArgs(t, "shards", &shards)
	d.MaybeScanArgs(t, "dialect", &conf.Options.Dialect)
	d.MaybeScanArgs(t, "truncate", &conf.Truncate)
	d.MaybeScanArgs(t, "moves", &movesMax)
	conf.Options.Idempotent, conf.Options.CreateTables = d.HasArg("idempotent"), d.HasArg("create")
	conf.Shards = []string{"a", "b \"2\"", "c"}[:shards]
	s.encoder = New(conf)
}

func (s *script) relation(t *testing.T, d *datadriven.TestData) {
	name := d.CmdArgs[0].Key
	id, identity := uint32(1), "d"
	d.MaybeScanArgs(t, "id", &id)
	d.MaybeScanArgs(t, "identity", &identity)
	schema, table := "public", name
	d.MaybeScanArgs(t, "schema", &schema)
	d.MaybeScanArgs(t, "table", &table)
	raw := binary.BigEndian.AppendUint32([]byte{'R'}, id)
	raw = append(append(append(raw, schema...), 0), table...)
	raw = append(raw, 0, identity[0])
	lines := strings.Split(strings.TrimSpace(d.Input), "\n")
	if lines[0] == "" {
		lines = nil
	}
	raw = binary.BigEndian.AppendUint16(raw, uint16(len(lines)))
	types := make(map[uint32]pipeline.Type)
	for _, line := range lines {
		w := words(t, line)
		oid, err := strconv.ParseUint(w[1], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		key := byte(0)
		for _, option := range w[2:] {
			if base, ok := strings.CutPrefix(option, "base="); ok {
				types[uint32(oid)] = pipeline.Type{OID: uint32(oid), Namespace: "pg_catalog", Name: base}
			} else if own, ok := strings.CutPrefix(option, "type="); ok {
				types[uint32(oid)] = pipeline.Type{OID: uint32(oid), Namespace: "public", Name: own}
			} else {
				key = 1
			}
		}
		raw = append(append(append(raw, key), w[0]...), 0)
		raw = binary.BigEndian.AppendUint32(raw, uint32(oid))
		raw = binary.BigEndian.AppendUint32(raw, 0xFFFFFFFF)
	}
	r, err := pipeline.ParseRelation(raw, func(oid uint32) (pipeline.Type, bool) {
		typ, ok := types[oid]
		return typ, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	s.relations[name] = r
}

func (s *script) batch(t *testing.T, d *datadriven.TestData) *pipeline.Batch {
	b := &pipeline.Batch{}
	var previous uint64
	d.MaybeScanArgs(t, "previous", &previous)
	b.Previous = pipeline.CSN(previous)
	var tx *pipeline.Transaction
	var f *pipeline.Fragment
	for line := range strings.SplitSeq(strings.TrimSpace(d.Input), "\n") {
		w := words(t, line)
		switch {
		case len(w) == 0:
		case w[0] == "tx":
			csn, _ := strconv.ParseUint(w[1], 10, 64)
			tx = &pipeline.Transaction{CSN: pipeline.CSN(csn), CommitTime: pipeline.Timestamp(csn)}
			if len(w) > 2 {
				tx.GID = w[2]
			}
			b.Transactions = append(b.Transactions, tx)
		case w[0] == "fragment":
			shard, _ := strconv.Atoi(w[1])
			xid, _ := strconv.Atoi(w[2])
			end, err := pipeline.ParseLSN(w[3])
			if err != nil {
				t.Fatal(err)
			}
			f = &pipeline.Fragment{Shard: pipeline.ShardID(shard), XID: pipeline.XID(xid), End: end}
			if len(w) > 4 {
				f.Origin = w[4]
			}
			tx.Fragments = append(tx.Fragments, f)
		default:
			s.change(f, w)
		}
	}
	return b
}

func (s *script) encode(t *testing.T, d *datadriven.TestData) string {
	b := s.batch(t, d)
	if d.HasArg("large") {
		elsewhere(b)
	}
	payloads, err := s.encoder.Encode(b)
	if err != nil {
		if payloads != nil {
			t.Errorf("%s: payloads and an error", d.Pos)
		}
		return "error: " + err.Error()
	}
	var out strings.Builder
	for i, p := range payloads {
		if p.CSN != b.Transactions[i].CSN || p.Transactions != 1 {
			t.Errorf("%s: payload %d is not what it says: %+v", d.Pos, i, p)
		}
		if p.Large != nil {
			if n, err := p.Large.WriteTo(&out); err != nil || n != p.Large.Size() {
				t.Errorf("%s: %d of %d bytes, %v", d.Pos, n, p.Large.Size(), err)
			}
			continue
		}
		out.Write(p.Data)
	}
	return out.String()
}

func (s *script) use(f *pipeline.Fragment, name string) uint32 {
	r := s.relations[name]
	f.Relations = append(f.Relations, pipeline.RelationUse{Offset: int64(len(f.Body)), Relation: r})
	return r.ID
}

func (s *script) change(f *pipeline.Fragment, w []string) {
	if w[0] == "use" {
		s.use(f, w[1])
		return
	}
	msg := []byte{map[string]byte{"insert": 'I', "update": 'U', "delete": 'D', "truncate": 'T', "message": 'M', "read": 'C'}[w[0]]}
	switch w[0] {
	case "truncate":
		flags, ids := byte(0), []byte(nil)
		for _, word := range w[1:] {
			switch word {
			case "cascade":
				flags |= pipeline.TruncateCascade
			case "restart":
				flags |= pipeline.TruncateRestartIdentity
			default:
				ids = binary.BigEndian.AppendUint32(ids, s.use(f, word))
			}
		}
		msg = binary.BigEndian.AppendUint32(msg, uint32(len(ids)/4))
		msg = append(append(msg, flags), ids...)
	case "message":
		msg = append(append(msg, 1, 0, 0, 0, 0, 0, 0, 0, 9), w[1]...)
		msg = binary.BigEndian.AppendUint32(append(msg, 0), uint32(len(w[2])))
		msg = append(msg, w[2]...)
	default:
		msg = binary.BigEndian.AppendUint32(msg, s.use(f, w[1]))
		msg = appendTuples(msg, w[2:])
	}
	f.Append(msg)
}

func appendTuples(msg []byte, w []string) []byte {
	for i := 0; i < len(w); {
		msg = append(msg, w[i][0])
		end := i + 1
		for end < len(w) && w[end] != "N" {
			end++
		}
		msg = binary.BigEndian.AppendUint16(msg, uint16(end-i-1))
		for _, v := range w[i+1 : end] {
			switch v {
			case "NULL":
				msg = append(msg, pipeline.Null)
			case "UNCHANGED":
				msg = append(msg, pipeline.Unchanged)
			case "BINARY":
				msg = append(msg, pipeline.Binary, 0, 0, 0, 0)
			default:
				msg = binary.BigEndian.AppendUint32(append(msg, pipeline.Text), uint32(len(v)))
				msg = append(msg, v...)
			}
		}
		i = end
	}
	return msg
}

func words(t *testing.T, line string) (all []string) {
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if q, err := strconv.QuotedPrefix(line); err == nil {
			v, err := strconv.Unquote(q)
			if err != nil {
				t.Fatal(err)
			}
			all, line = append(all, v), line[len(q):]
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		all, line = append(all, word), rest
	}
	return all
}
