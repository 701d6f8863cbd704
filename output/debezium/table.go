package debezium

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// table is a relation, ready to be written.
type table struct {
	relation   *pipeline.Relation
	tokens     string // of its subject
	collection string // Debezium's name of it: schema.table
	columns    []column
	keyed      bool   // the identity tells which columns are the key
	source     string // the source block's fields schema and table
	// schema and keySchema stand in front of a payload; empty without schemas.
	schema, keySchema string
	names             []string // of the columns, as JSON strings
}

type column struct {
	form
	name string // as a JSON string between a comma and a colon
	key  bool
}

func (e *Encoder) table(r *pipeline.Relation) (*table, error) { return e.tables.Of(r, e.newTable) }

var errName = errors.New("the name is not valid UTF-8 and has no form in JSON. Try: ALTER TABLE … RENAME, or cdcctl create-subscription … --format internal")

func (e *Encoder) newTable(r *pipeline.Relation) (*table, error) {
	if !utf8.ValidString(r.Namespace) || !utf8.ValidString(r.Name) {
		return nil, fmt.Errorf("table %q: %w", r, errName)
	}
	t := &table{
		relation: r, tokens: wire.TableTokens(r.Namespace, r.Name), collection: r.String(),
		source: `,"schema":` + quote(r.Namespace) + `,"table":` + quote(r.Name),
	}
	if e.conf.Route != nil {
		if tokens, ok := e.conf.Route(r.Namespace, r.Name); ok {
			t.tokens = tokens
		}
	}
	var row, key []node
	for i := range r.Columns {
		c := &r.Columns[i]
		if !utf8.ValidString(c.Name) {
			return nil, fmt.Errorf("table %s: column %q: %w", r, c.Name, errName)
		}
		name := quote(c.Name)
		col := column{form: formOf(&e.conf.Debezium, r, c), name: "," + name + ":", key: isKey(r, c)}
		t.columns, t.names = append(t.columns, col), append(t.names, name)
		n := col.node.field(c.Name)
		if col.key {
			t.keyed = true
			key = append(key, n)
		} else {
			n = n.optional()
		}
		row = append(row, n)
	}
	if e.conf.Debezium.Schema {
		topic := sanitized(e.conf.Subscription + "." + r.Namespace + "." + r.Name)
		t.schema = schemaOf(envelopeNode(topic, unversioned(topic+".Value", row)))
		t.keySchema = schemaOf(unversioned(topic+".Key", key))
	}
	return t, nil
}

// isKey says that a column is of the record key: of the replica identity. With REPLICA IDENTITY FULL every column is, and
// PostgreSQL does not say which of them are the primary key, so there is no key then.
func isKey(r *pipeline.Relation, c *pipeline.Column) bool { return c.Key && r.Identity != 'f' }

// schemaOf is what stands in front of a payload.
func schemaOf(n node) string { return `{"schema":` + n.String() + `,"payload":` }

// sanitized is a name with what Debezium allows in topics.
func sanitized(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' {
			return r
		}
		return '_'
	}, name)
}

// keyComplete says that every column of the key has a value. Else there is no key: a part of one would name other rows.
func (t *table) keyComplete(values []pipeline.Value) bool {
	if !t.keyed {
		return false
	}
	for i := range values {
		if t.columns[i].key && values[i].Kind != pipeline.Text {
			return false
		}
	}
	return true
}

// sameKey says that two rows have the same key.
func (t *table) sameKey(a, b []pipeline.Value) bool {
	for i := range a {
		if t.columns[i].key && b[i].Kind != pipeline.Unchanged && string(a[i].Data) != string(b[i].Data) {
			return false
		}
	}
	return true
}
