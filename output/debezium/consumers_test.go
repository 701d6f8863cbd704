package debezium

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// The consumers of these tests are what is known of other people's, in a few lines: what they read of an event, and what they
// refuse. docs/debezium.md names the settings.

// change is what both of them read.
type change struct {
	Before, After map[string]json.RawMessage
	Op            *string
	Status, ID    *string
	Payload       json.RawMessage
}

func parseChange(data []byte, wrapped bool) (c change, err error) {
	if err = json.Unmarshal(data, &c); err != nil || !wrapped {
		return c, err
	}
	if c.Payload == nil {
		return c, errors.New("no payload")
	}
	payload := c.Payload
	c = change{}
	return c, json.Unmarshal(payload, &c)
}

// flink is a table with 'format' = 'debezium-json': a bag of rows, from which a row is taken before another takes its place.
type flink struct {
	schemaInclude bool
	rows          map[string]int
}

func (f *flink) read(data []byte) error {
	if len(data) == 0 { // a tombstone
		return nil
	}
	c, err := parseChange(data, f.schemaInclude)
	if err != nil {
		return err
	}
	if c.Op == nil {
		return errors.New("corrupt Debezium JSON: no op")
	}
	switch *c.Op {
	case "c", "r":
		return f.add(c.After)
	case "u":
		if c.Before == nil {
			return errors.New(`the "before" field of UPDATE message is null; REPLICA IDENTITY FULL`)
		}
		return errors.Join(f.take(c.Before), f.add(c.After))
	case "d":
		if c.Before == nil {
			return errors.New(`the "before" field of DELETE message is null; REPLICA IDENTITY FULL`)
		}
		return f.take(c.Before)
	}
	return fmt.Errorf("unknown \"op\" value %q", *c.Op)
}

func (f *flink) add(row map[string]json.RawMessage) error {
	text, err := typed(row)
	f.rows[text]++
	return err
}

func (f *flink) take(row map[string]json.RawMessage) error {
	text, err := typed(row)
	if f.rows[text]--; f.rows[text] < 0 {
		return errors.Join(err, fmt.Errorf("a row is taken back that is not there: %s", text))
	}
	if f.rows[text] == 0 {
		delete(f.rows, text)
	}
	return err
}

// risingWave is a table with FORMAT DEBEZIUM ENCODE JSON and a primary key, of which the message's key has the columns.
type risingWave struct {
	rows map[string]string // by primary key
	open string            // transaction
}

func (r *risingWave) read(key string, data []byte) error {
	if len(data) == 0 {
		var columns map[string]json.RawMessage
		if err := json.Unmarshal([]byte(key), &columns); err != nil {
			return err
		}
		delete(r.rows, string(columns["id"]))
		return nil
	}
	c, err := parseChange(data, strings.Contains(string(data[:min(len(data), 10)]), `"schema"`))
	if err != nil {
		return err
	}
	if c.Status != nil && c.ID != nil {
		return r.boundary(*c.Status, *c.ID)
	}
	if c.Op == nil {
		return errors.New("no op")
	}
	switch *c.Op {
	case "c", "r", "u":
		text, err := typed(c.After)
		r.rows[string(c.After["id"])] = text
		return err
	case "d":
		delete(r.rows, string(c.Before["id"]))
		return nil
	}
	return fmt.Errorf("unknown op %q", *c.Op)
}

func (r *risingWave) boundary(status, id string) error {
	tx, _, ok := strings.Cut(id, ":")
	switch {
	case !ok:
		return fmt.Errorf("id %q has no colon", id)
	case status == "BEGIN" && r.open == "":
		r.open = tx
		return nil
	case status == "END" && r.open == tx:
		r.open = ""
		return nil
	}
	return fmt.Errorf("%s of %s while %q is open", status, id, r.open)
}

// typed converts a row to the declared types, and prints it as the source does.
func typed(row map[string]json.RawMessage) (string, error) {
	var id int64
	var amount, note, at, raw *string
	var tags []*string
	err := errors.Join(json.Unmarshal(row["id"], &id), json.Unmarshal(row["amount"], &amount), json.Unmarshal(row["note"], &note),
		json.Unmarshal(row["at"], &at), json.Unmarshal(row["raw"], &raw), json.Unmarshal(row["tags"], &tags))
	out := []string{strconv.FormatInt(id, 10), text(amount), text(note), "∅", "∅", text(nil)}
	if at != nil { // TIMESTAMP_LTZ, timestamptz
		when, bad := time.Parse("2006-01-02T15:04:05.999999Z", *at)
		out[3], err = strconv.FormatInt(when.UnixMicro(), 10), errors.Join(err, bad)
	}
	if raw != nil { // BYTES, bytea
		b, bad := base64.StdEncoding.DecodeString(*raw)
		out[4], err = hex.EncodeToString(b), errors.Join(err, bad)
	}
	if tags != nil {
		b, bad := json.Marshal(tags)
		out[5], err = string(b), errors.Join(err, bad)
	}
	return strings.Join(out, "|"), err
}

func text(s *string) string {
	if s == nil {
		return "∅"
	}
	return *s
}

const consumersTable = `CREATE TABLE c (id bigint PRIMARY KEY, amount numeric(10,2), note text, at timestamptz, raw bytea, tags text[])`

// rows is the table as typed prints it.
func (s *source) rows() (list []string) {
	s.t.Helper()
	r := s.conn.ExecParams(s.t.Context(), `SELECT concat_ws('|', id, coalesce(amount::text, '∅'), coalesce(note, '∅'),
		coalesce(trunc(extract(epoch FROM at) * 1000000)::text, '∅'), coalesce(encode(raw, 'hex'), '∅'), coalesce(to_json(tags)::text, '∅')) FROM c`,
		nil, nil, nil, nil).Read()
	if r.Err != nil {
		s.t.Fatal(r.Err)
	}
	for _, row := range r.Rows {
		list = append(list, string(row[0]))
	}
	slices.Sort(list)
	return list
}

// work writes random transactions.
func (s *source) work(seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		statements := []string{"BEGIN"}
		for range 1 + random.IntN(4) {
			id := random.IntN(20)
			row := fmt.Sprintf("%d.%02d, %s, timestamptz 'epoch' + interval '1 us' * %d, '\\x%x', ARRAY['a%d', NULL]", random.IntN(1000), random.IntN(100),
				[]string{"NULL", "''", `'x"y\é'`}[random.IntN(3)], random.Int64N(4e15), random.IntN(1000)+4096, random.IntN(9))
			statements = append(statements, []string{
				fmt.Sprintf("INSERT INTO c VALUES (%d, %s) ON CONFLICT (id) DO UPDATE SET amount = NULL, tags = NULL", id, row),
				fmt.Sprintf("UPDATE c SET note = note || '+', at = NULL, raw = NULL WHERE id = %d", id),
				fmt.Sprintf("UPDATE c SET id = id + 100 WHERE id = %d AND NOT EXISTS (SELECT FROM c WHERE id = %d)", id, id+100),
				fmt.Sprintf("DELETE FROM c WHERE id IN (%d, %d)", id, id+100),
			}[random.IntN(4)])
		}
		s.exec(strings.Join(append(statements, "COMMIT"), ";\n"))
	}
}

// TestConsumers has other people's consumers follow a table, and compares what they have with it.
func TestConsumers(t *testing.T) {
	seed := rand.Uint64()
	for _, c := range []struct {
		name, identity    string
		chosen            bool // the key, by a rule: --shape
		flink, risingWave bool // Flink needs the whole old row, RisingWave a key
		options           []string
	}{
		{"full", "FULL", false, true, false, []string{"tombstones"}},
		{"full_schema", "FULL", false, true, false, []string{"schema"}},
		{"chosen", "FULL", true, true, true, []string{"tombstones"}},
		{"chosen_schema", "FULL", true, true, true, []string{"schema"}},
		{"key", "DEFAULT", false, false, true, []string{"tombstones"}},
		{"key_schema", "DEFAULT", false, false, true, []string{"schema"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSource(t, "events_consumers_"+c.name)
			s.exec(consumersTable)
			s.exec("ALTER TABLE c REPLICA IDENTITY " + c.identity)
			s.work(seed)
			schema := slices.Contains(c.options, "schema")
			fragments := s.capture()
			if c.chosen {
				choose(fragments, "id")
			}
			payloads := encode(t, newEncoder(t, options(t, c.options)), transactions(fragments)...)
			f, r := &flink{schemaInclude: schema, rows: map[string]int{}}, &risingWave{rows: map[string]string{}}
			for _, p := range payloads {
				if err := r.read(headerOf(p, wire.HeaderKey), p.Data); c.risingWave && err != nil {
					t.Fatalf("seed %d: RisingWave: %v\n%s", seed, err, p.Data)
				}
				if p.Subject == "" || !c.flink { // it reads the table's subject alone
					continue
				}
				if err := f.read(p.Data); err != nil {
					t.Fatalf("seed %d: Flink: %v\n%s", seed, err, p.Data)
				}
			}
			want := s.rows()
			if got := r.list(); c.risingWave && (len(want) < 2 || !slices.Equal(got, want)) {
				t.Errorf("seed %d: RisingWave has\n%q\nthe source\n%q", seed, got, want)
			}
			if got := f.list(); c.flink && !slices.Equal(got, want) {
				t.Errorf("seed %d: Flink has\n%q\nthe source\n%q", seed, got, want)
			}
		})
	}
}

// choose makes columns the key, as a rule of a shape does.
func choose(fragments []*pipeline.Fragment, columns ...string) {
	for _, f := range fragments {
		for i, use := range f.Relations {
			r := *use.Relation
			r.Identity, r.Columns = 'i', slices.Clone(r.Columns)
			for j := range r.Columns {
				r.Columns[j].Key = slices.Contains(columns, r.Columns[j].Name)
			}
			f.Relations[i].Relation = &r
		}
	}
}

func (r *risingWave) list() (list []string) {
	for _, row := range r.rows {
		list = append(list, row)
	}
	slices.Sort(list)
	return list
}

func (f *flink) list() (list []string) {
	for row, n := range f.rows {
		list = append(list, slices.Repeat([]string{row}, n)...)
	}
	slices.Sort(list)
	return list
}

func headerOf(p output.Payload, name string) string {
	for _, h := range p.Headers {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

// TestFlinkRefuses shows what docs/debezium.md warns of: Flink cannot follow a table without REPLICA IDENTITY FULL, nor truncation.
func TestFlinkRefuses(t *testing.T) {
	s := newSource(t, "events_flink_refuses")
	s.exec(consumersTable)
	s.exec("INSERT INTO c (id) VALUES (1); UPDATE c SET note = 'x'; TRUNCATE c")
	f := &flink{rows: map[string]int{}}
	var errs []string
	payloads := encode(t, newEncoder(t, options(t, []string{"truncate"})), transactions(s.capture())...)
	for _, p := range payloads {
		if err := f.read(p.Data); p.Subject != "" && err != nil {
			errs = append(errs, err.Error())
		}
	}
	if len(errs) != 2 || !strings.Contains(errs[0], "REPLICA IDENTITY FULL") || errs[1] != `unknown "op" value "t"` {
		t.Errorf("%q", errs)
	}
}

// Rows have rising places in the order of the whole stream, whatever their shard.
func TestSequence(t *testing.T) {
	s := newSource(t, "events_sequence")
	s.exec(consumersTable)
	s.work(1)
	fragments := s.capture()
	var txs []*pipeline.Transaction
	for i := 0; i+1 < len(fragments); i += 2 { // two shards in each, of which the second is far behind
		fragments[i+1].Shard, fragments[i+1].End = 1, pipeline.LSN(i+1)
		txs = append(txs, &pipeline.Transaction{CSN: pipeline.CSN(1000 + i), GID: "g", CommitTime: commitTime, Fragments: fragments[i : i+2]})
	}
	var last [2]uint64
	n := 0
	for _, p := range encode(t, newEncoder(t, options(t, nil)), txs...) {
		if p.Subject == "" {
			continue
		}
		var event struct{ Source struct{ Sequence string } }
		var sequence [2]string
		if err := errors.Join(json.Unmarshal(p.Data, &event), json.Unmarshal([]byte(event.Source.Sequence), &sequence)); err != nil {
			t.Fatal(err)
		}
		var at [2]uint64
		for i := range at {
			v, err := strconv.ParseUint(sequence[i], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			at[i] = v
		}
		if slices.Compare(at[:], last[:]) <= 0 {
			t.Fatalf("%v follows %v", at, last)
		}
		last = at
		n++
	}
	if n < 20 {
		t.Fatalf("%d events", n)
	}
}
