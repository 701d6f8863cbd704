package reading

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	outputjson "shardcdc/output/json"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// transfer is a transaction of two fragments with n messages.
func transfer(n int) *pipeline.Batch {
	tx := &pipeline.Transaction{CSN: 7, GID: `tx,"changes":[`, CommitTime: 1}
	for shard := range 2 {
		f := &pipeline.Fragment{Shard: pipeline.ShardID(shard), XID: 41, End: 0x100}
		for range n {
			f.Append(append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 9, 'p', 0, 0, 0, 0, 8}, "contents"...))
		}
		tx.Fragments = append(tx.Fragments, f)
	}
	tx.Fragments[1].Origin = "import"
	return &pipeline.Batch{Previous: 3, Transactions: []*pipeline.Transaction{tx}}
}

// payloadOf is a batch in a format.
func payloadOf(t *testing.T, name string, b *pipeline.Batch) []byte {
	t.Helper()
	if name == format.Internal {
		frame, err := new(wire.Encoder).AppendUnit(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		return frame
	}
	payloads, err := outputjson.New([]string{"a", "b"}, format.JSONOptions{}).Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	return payloads[0].Data
}

// post makes messages of a stream.
type post struct {
	*testing.T
	sub  *control.Subscription
	seq  pipeline.Seq
	unit pipeline.Seq
	r    *Reader
	got  []*Transaction
}

func newPost(t *testing.T, sub *control.Subscription, limit int) *post {
	return &post{T: t, sub: sub, r: NewReader(sub, limit)}
}

func (p *post) epoch() {
	p.Helper()
	p.add(&Message{Subject: wire.EpochSubject("s")})
}

func (p *post) add(m *Message) {
	p.Helper()
	p.seq++
	m.Seq, m.Time = p.seq, time.Unix(int64(p.seq), 0)
	txs, err := p.r.Add(m)
	if err != nil {
		p.Fatal(err)
	}
	p.got = append(p.got, txs...)
}

// send sends parts of a payload; end says that the last of them ends the unit.
func (p *post) send(subject string, csn pipeline.CSN, parts [][]byte, until int, end bool) {
	p.Helper()
	for k, data := range parts[:until] {
		m := &Message{Subject: subject, Header: nats.Header{}, Data: data}
		m.Header.Set(wire.HeaderFormat, p.sub.Format)
		m.Header.Set(wire.HeaderCSN, csn.String())
		m.Header.Set(wire.HeaderUnit, strconv.Itoa(int(p.unit)))
		if len(parts) > 1 {
			m.Header.Set(wire.HeaderPart, wire.PartHeader(k+1, len(parts)))
		}
		if end && k == len(parts)-1 {
			m.Header.Set(wire.HeaderCheckpoint, "x")
			m.Header.Set(wire.HeaderTaken, "1000000")
		}
		p.add(m)
		if m.Ends() {
			p.unit = p.seq
		}
	}
}

func subscription(of format.Format) *control.Subscription {
	return &control.Subscription{Name: "s", Format: of.Name, JSON: of.JSON, Debezium: of.Debezium, SQL: of.SQL, Shards: []control.Shard{{Name: "a"}, {Name: "b"}}}
}

// Of a transaction beyond the limit the head comes out, whatever the format, and it goes on behind it.
func TestLarge(t *testing.T) {
	const limit, part = 4000, 1000
	for _, name := range []string{format.Internal, format.JSON} {
		t.Run(name, func(t *testing.T) {
			p := newPost(t, subscription(format.Format{Name: name}), limit)
			huge, small := wire.Split(payloadOf(t, name, transfer(300)), part), wire.Split(payloadOf(t, name, transfer(10)), part)
			tx := wire.Subject("s")
			p.send(tx, 7, huge, 3, true) // its writer dies
			p.epoch()
			p.send(tx, 7, huge, len(huge)-1, true) // and so does this one, unnoticed
			p.send(tx, 7, huge, len(huge), true)
			p.send(tx, 7, small, len(small), true)
			if len(p.got) != 2 {
				t.Fatalf("%d transactions", len(p.got))
			}
			h := p.got[0]
			if !h.TooLarge || h.CSN != 7 || h.Previous != 3 || h.Total != 600 || h.Rows != nil || h.JSON != nil || h.Bytes < 10000 ||
				len(h.Fragments) != 2 || h.Fragments[0].LSN != 0x100 || h.Fragments[1].Shard != "b" || string(h.Fragments[1].Origin) != `"import"` ||
				string(h.GID) != `"tx,\"changes\":["` || h.CommitTime != "2000-01-01T00:00:00.000001Z" {
				t.Errorf("head %+v", h)
			}
			begin := pipeline.Seq(3 + 1 + len(huge)) // 3 parts, an epoch, all parts but one
			if h.First != begin || h.Messages != len(huge) || h.Last != begin+pipeline.Seq(len(huge))-1 || h.UnitEnd != h.Last ||
				!h.Stored.Equal(time.Unix(int64(h.Last), 0)) || !h.Taken.Equal(time.Unix(1, 0)) {
				t.Errorf("place %+v, want from %d on %d messages", h.Place, begin, len(huge))
			}
			if s := p.got[1]; s.TooLarge || s.Total != 20 || s.Messages != len(small) || s.First != h.Last+1 || s.Rows == nil && s.JSON == nil {
				t.Errorf("the small one: %+v", s)
			}
		})
	}
}

// Whoever begins in the middle of a unit shows nothing of it.
func TestMiddle(t *testing.T) {
	p := newPost(t, subscription(format.Format{Name: format.JSON}), 4000)
	p.seq, p.unit = 10, 5
	body := [][]byte{payloadOf(t, format.JSON, transfer(1))}
	p.send(wire.Subject("s"), 7, body, 1, false)
	p.send(wire.Subject("s"), 7, body, 1, true)
	if len(p.got) != 0 {
		t.Errorf("%d transactions of a unit without its beginning", len(p.got))
	}
	p.send(wire.Subject("s"), 7, body, 1, false)
	if len(p.got) != 0 {
		t.Error("a transaction before its unit's end")
	}
	p.send(wire.Subject("s"), 7, body, 1, true)
	if len(p.got) != 2 || p.got[0].UnitEnd != 14 || p.got[0].First != 13 {
		t.Errorf("%d transactions of a whole unit: %+v", len(p.got), p.got[0].Place)
	}
}

var byRow = format.Format{Name: format.JSON, JSON: format.JSONOptions{Layout: format.ByRow}}

const envelopeText = `"csn":"9","gid":"g","commit_time":"2000-01-01T00:00:00.000001Z","shard":"a","xid":1,"lsn":"0/1",`

const endText = `{"csn":"9","previous":"8","gid":"g","commit_time":"2000-01-01T00:00:00.000001Z","fragments":[{"shard":"a","xid":1,"lsn":"0/1","changes":2}],"total":2,"tables":[{"schema":"p","table":"t","changes":1},{"schema":"p","table":"u","changes":1}]}`

// Rows of one transaction are put together, and what was unfinished is not shown.
func TestRows(t *testing.T) {
	p := newPost(t, subscription(byRow), 4000)
	table := func(name string) string { return wire.TableSubject("s", "p", name) }
	one := func(s string) [][]byte { return [][]byte{[]byte(s)} }
	insert := "{" + envelopeText + `"index":0,"total":2,"op":"insert","schema":"p","table":"t","after":{"id":1}}`
	truncate := func(table string) []byte {
		return []byte("{" + envelopeText + `"index":1,"total":2,"op":"truncate","schema":"p","table":"` + table + `"}`)
	}
	p.send(table("t"), 8, one(insert), 1, false) // its writer dies
	p.epoch()
	p.send(table("t"), 9, wire.Split([]byte(insert), 60), len(wire.Split([]byte(insert), 60)), false)
	p.send(table("t"), 9, one(string(truncate("t"))), 1, false)
	p.send(table("u"), 9, one(string(truncate("u"))), 1, false)
	p.send(wire.Subject("s"), 9, one(endText), 1, true)
	if len(p.got) != 1 {
		t.Fatalf("%d transactions", len(p.got))
	}
	want := `{"csn":"9","previous":"8","gid":"g","commit_time":"2000-01-01T00:00:00.000001Z","fragments":[{"shard":"a","xid":1,"lsn":"0/1","changes":2}],"total":2,"changes":[` +
		`{"shard":"a","index":0,"op":"insert","schema":"p","table":"t","after":{"id":1}},` +
		`{"shard":"a","index":1,"op":"truncate","tables":[{"schema":"p","table":"t"},{"schema":"p","table":"u"}]}]}`
	if got := string(p.got[0].JSON); got != want {
		t.Errorf("put together:\n%s\nwant\n%s", got, want)
	}
	if at := p.got[0].Place; at.First != 3 || at.Messages != int(at.Last-at.First)+1 || at.Last != p.seq {
		t.Errorf("place %+v", at)
	}
	p.send(table("t"), 10, one(strings.ReplaceAll(insert, `"9"`, `"10"`)), 1, false)
	_, err := p.r.Add(&Message{Seq: p.seq + 1, Subject: wire.Subject("s"), Data: []byte(strings.ReplaceAll(endText, `"9"`, `"10"`)), Header: nats.Header{wire.HeaderCSN: {"10"}, wire.HeaderUnit: {"1"}}})
	if err == nil || !strings.Contains(err.Error(), "1 rows, and its end says 2") {
		t.Errorf("a row is missing: %v", err)
	}
}

// Of rows beyond the limit the transaction's head is shown.
func TestRowsLarge(t *testing.T) {
	p := newPost(t, subscription(byRow), 200)
	row := []byte("{" + envelopeText + `"index":0,"total":2,"op":"insert","schema":"p","table":"t","after":{"id":"` + strings.Repeat("x", 300) + `"}}`)
	parts := wire.Split(row, 100)
	p.send(wire.TableSubject("s", "p", "t"), 9, parts, len(parts), false)
	p.send(wire.Subject("s"), 9, [][]byte{[]byte(endText)}, 1, true)
	if len(p.got) != 1 || !p.got[0].TooLarge || p.got[0].JSON != nil || len(p.got[0].Tables) != 2 || p.got[0].Messages != len(parts)+1 || p.got[0].Bytes != int64(len(row)) {
		t.Errorf("%+v, of %d bytes", p.got, len(row))
	}
	for k, data := range parts {
		_, err := p.r.Add(&Message{Seq: p.seq + 1 + pipeline.Seq(k), Subject: wire.TableSubject("s", "p", "t"), Data: data, Header: nats.Header{
			wire.HeaderCSN: {"x"}, wire.HeaderUnit: {strconv.Itoa(int(p.unit))}, wire.HeaderPart: {wire.PartHeader(k+1, len(parts))},
		}})
		if last := k == len(parts)-1; (err != nil) != last || last && !strings.Contains(err.Error(), wire.HeaderCSN) {
			t.Errorf("part %d of a row of no CSN: %v", k+1, err)
		}
	}
}

// Debezium's messages stay as they are.
func TestDebezium(t *testing.T) {
	of := byRow
	of.JSON.Flavour = format.Debezium
	p := newPost(t, subscription(of), 4000)
	one := func(s string) [][]byte { return [][]byte{[]byte(s)} }
	p.send(wire.Subject("s"), 9, one(`{"status":"BEGIN","id":"9","event_count":null,"ts_ms":1000}`), 1, false)
	p.send(wire.TableSubject("s", "p", "t"), 9, one(`{"before":null,"after":{"id":1},"op":"c"}`), 1, false)
	p.send(wire.Subject("s"), 9, one(`{"schema":{},"payload":{"status":"END","id":"9","event_count":1,"ts_ms":1000}}`), 1, true)
	if len(p.got) != 1 || p.got[0].CSN != 9 || p.got[0].Total != 1 || len(p.got[0].Parts.Rows) != 1 || p.got[0].CommitTime != "1970-01-01T00:00:01.000000Z" || p.got[0].Messages != 3 {
		t.Errorf("%+v", p.got)
	}
}
