package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/format"
	"shardcdc/test/harness"
)

// replica is what a consumer makes of a JSON stream by the documented rules: a row that is read is an upsert, and so is an
// insert into a table that is being copied; an update or a delete may find nothing there. It knows the keys of its tables.
type replica struct {
	t       *testing.T
	keys    map[string][]string // per table; none: its rows have no key
	unit    [][]byte
	tables  map[string]map[string]*replicaRow // by key
	heaps   map[string]map[string]int         // how many rows of the same text there are
	copying map[string]*copyingTable
	jobs    map[string]bool
	reads   int
	ended   bool
}

type replicaRow struct {
	shard  string
	values map[string]any
}

// copyingTable: of a table without a key, the shards whose rows have come; the others' changes are in the rows to come.
type copyingTable struct{ arrived map[string]bool }

type jsonChange struct {
	Op        string         `json:"op"`
	Shard     string         `json:"shard"`
	Schema    string         `json:"schema"`
	Table     string         `json:"table"`
	Key       map[string]any `json:"key"`
	Before    map[string]any `json:"before"`
	After     map[string]any `json:"after"`
	Unchanged []string       `json:"unchanged"`
	Mark      string         `json:"mark"`
	Job       string         `json:"job"`
	Tables    []struct {
		Schema string `json:"schema"`
		Table  string `json:"table"`
		Keyed  bool   `json:"keyed"`
	} `json:"tables"`
}

func newReplica(t *testing.T, keys map[string][]string) *replica {
	r := &replica{t: t, keys: keys, tables: map[string]map[string]*replicaRow{}, heaps: map[string]map[string]int{}, copying: map[string]*copyingTable{}, jobs: map[string]bool{}}
	for table := range keys {
		r.tables[table], r.heaps[table] = map[string]*replicaRow{}, map[string]int{}
	}
	return r
}

func (r *replica) newWriter()       { r.unit = nil }
func (r *replica) payload(b []byte) { r.unit = append(r.unit, bytes.Clone(b)) }

func (r *replica) end() {
	r.t.Helper()
	for _, b := range r.unit {
		var tx struct {
			CSN     string       `json:"csn"`
			Changes []jsonChange `json:"changes"`
		}
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&tx); err != nil {
			r.t.Fatal(err)
		}
		for i := range tx.Changes {
			if err := r.change(&tx.Changes[i]); err != nil {
				r.t.Fatalf("csn %s: %v", tx.CSN, err)
			}
		}
	}
	r.unit = nil
}

func (r *replica) change(c *jsonChange) error {
	name := c.Schema + "." + c.Table
	switch c.Op {
	case "copy":
		return r.mark(c)
	case "message", "relation":
		return nil
	case "truncate":
		for _, t := range c.Tables {
			maps.DeleteFunc(r.tables[t.Schema+"."+t.Table], func(_ string, row *replicaRow) bool { return row.shard == c.Shard })
		}
		return nil
	case "insert", "update", "delete", "read":
	default:
		return fmt.Errorf("op %q", c.Op)
	}
	if _, known := r.keys[name]; !known {
		return nil
	}
	if c.Op == "read" {
		r.reads++
	}
	if len(r.keys[name]) == 0 {
		return r.heap(name, c)
	}
	return r.row(name, c)
}

func (r *replica) mark(m *jsonChange) error {
	switch m.Mark {
	case "begin":
		if r.jobs[m.Job] {
			return nil
		}
		r.jobs[m.Job] = true
		for _, t := range m.Tables {
			r.copying[t.Schema+"."+t.Table] = &copyingTable{arrived: map[string]bool{}}
		}
	case "rows":
		if t := r.copying[m.Tables[0].Schema+"."+m.Tables[0].Table]; t != nil {
			t.arrived[m.Shard] = true
		}
	case "end":
		for _, t := range m.Tables {
			delete(r.copying, t.Schema+"."+t.Table)
		}
		r.ended = true
	case "high":
	default:
		return fmt.Errorf("mark %q", m.Mark)
	}
	return nil
}

// heap changes a table without a key.
func (r *replica) heap(name string, c *jsonChange) error {
	if t := r.copying[name]; t != nil && !t.arrived[c.Shard] {
		if c.Op == "read" {
			return fmt.Errorf("a row of %s comes before its mark", name)
		}
		return nil
	}
	rows := r.heaps[name]
	if c.Before != nil {
		before := rowText(c.Before)
		if rows[before]--; rows[before] < 0 {
			return fmt.Errorf("%s on %s: there is no %s", c.Op, name, before)
		}
	}
	if c.After != nil {
		rows[rowText(c.After)]++
	}
	return nil
}

// row changes a table with a key.
func (r *replica) row(name string, c *jsonChange) error {
	rows, lenient := r.tables[name], r.copying[name] != nil
	key := c.Key
	if key == nil {
		key = c.Before
	}
	old := rows[r.keyText(name, key)]
	switch {
	case c.Op == "read", c.Op == "insert" && lenient:
		rows[r.keyText(name, c.After)] = &replicaRow{c.Shard, c.After}
		return nil
	case c.Op == "insert":
		// A row that goes to another shard may come there before it goes here: changes are in the order of shards.
		if old := rows[r.keyText(name, c.After)]; old != nil && old.shard == c.Shard {
			return fmt.Errorf("%s has %v already", name, c.Key)
		}
		rows[r.keyText(name, c.After)] = &replicaRow{c.Shard, c.After}
		return nil
	case old == nil && lenient, old != nil && old.shard != c.Shard && c.Op == "delete":
		return nil
	case old == nil:
		return fmt.Errorf("%s on %s: there is no %v", c.Op, name, key)
	}
	delete(rows, r.keyText(name, key))
	if c.Op == "update" {
		for _, column := range c.Unchanged {
			c.After[column] = old.values[column]
		}
		rows[r.keyText(name, c.After)] = &replicaRow{c.Shard, c.After}
	}
	return nil
}

func (r *replica) keyText(name string, values map[string]any) string {
	var parts []string
	for _, column := range r.keys[name] {
		parts = append(parts, fmt.Sprint(values[column]))
	}
	return strings.Join(parts, "\x00")
}

// rowText is a row as text: its columns by name.
func rowText(values map[string]any) string {
	var b strings.Builder
	for _, column := range slices.Sorted(maps.Keys(values)) {
		if v := values[column]; v == nil {
			fmt.Fprintf(&b, "%s NULL ", column)
		} else {
			fmt.Fprintf(&b, "%s %q ", column, fmt.Sprint(v))
		}
	}
	return b.String()
}

// same compares a table with the shards.
func (r *replica) same(c *harness.Cluster, name string) {
	r.t.Helper()
	have := maps.Clone(r.heaps[name])
	for _, row := range r.tables[name] {
		have[rowText(row.values)]++
	}
	n := 0
	for _, dsn := range c.ShardDSNs() {
		rows, err := readTexts(c.Ctx, dsn, name)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, text := range rows {
			n++
			if have[text]--; have[text] < 0 {
				r.t.Errorf("%s: the consumer lacks %s", name, text[:min(len(text), 200)])
			}
		}
	}
	for text, more := range have {
		if more > 0 {
			r.t.Errorf("%s: the consumer has %d too many of %s", name, more, text[:min(len(text), 200)])
		}
	}
	r.t.Logf("%s: %d rows", name, n)
}

// readTexts reads a table's rows as rowText has them.
func readTexts(ctx context.Context, dsn, table string) (texts []string, err error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["TimeZone"] = "UTC"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	result := conn.PgConn().ExecParams(ctx, "SELECT * FROM "+table, nil, nil, nil, nil)
	var columns []string
	for _, f := range result.FieldDescriptions() {
		columns = append(columns, f.Name)
	}
	for result.NextRow() {
		row := map[string]any{}
		for i, v := range result.Values() {
			row[columns[i]] = nil
			if v != nil {
				row[columns[i]] = string(v)
			}
		}
		texts = append(texts, rowText(row))
	}
	_, err = result.Close()
	return texts, err
}

// A consumer of the JSON format that follows the documented rules ends equal, whatever happens while the rows are copied.
func TestJSONCopied(t *testing.T) {
	s := harness.NewCopied(t, 15_000, harness.Options{Format: format.Format{Name: format.JSON}, CopyArgs: []string{"--copy-rate", "2MB"}})
	s.Churn.Truncates()
	node := s.Node("node")
	for n := int64(1); n <= 2 && s.Copied(n*4000); n++ {
		s.Kill(node)
		node = s.Node("node")
	}
	s.CopyEnds()
	s.Churn.Changed(200)
	s.Churn.Stop()
	s.Bank.StopTraffic()
	r := newReplica(t, map[string][]string{
		"public.rows": {"id"}, "public.short": {"b", "a"}, "public.heap": nil,
		"public.accounts": {"id"}, "public.history": {"id"}, "public.journal": nil, "public.markers": {"id", "shard"},
	})
	readJSON(t, s.Cluster, s.WaitPublished(), r)
	if !r.ended {
		t.Error("the copy's end is not in the stream")
	}
	for name := range r.keys {
		r.same(s.Cluster, name)
	}
	t.Logf("%d rows were read", r.reads)
}

// The same, live.
func TestJSONChurn(t *testing.T) {
	const rows = 2000
	c := harness.New(t, harness.Options{Format: format.Format{Name: format.JSON}, Tables: harness.ChurnDDL})
	c.Node("node")
	c.Running()
	c.FillChurn(rows)
	churn := c.OpenChurn(rows, 300)
	churn.Truncates()
	churn.Changed(500)
	churn.Stop()
	r := newReplica(t, map[string][]string{"public.rows": {"id"}, "public.short": {"b", "a"}, "public.heap": nil})
	readJSON(t, c, c.WaitPublished(), r)
	for name := range r.keys {
		r.same(c, name)
	}
}
