package json

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"shardcdc/pipeline"
)

// What tables look like is told in the stream, where readers need it: in front of the first change of a table, and again
// where its description changed, for each shard, since shards change their tables one after the other. What an encoder told
// it remembers, so a new one (another node, a restart) tells everything again.

// relationKey is a table of a shard.
type relationKey struct {
	shard pipeline.ShardID
	id    uint32
}

// told are the descriptions that readers know; at the limit it forgets, and tells again.
type told map[relationKey]*pipeline.Relation

// news are the descriptions that a transaction tells: of each fragment, those that are to come.
type news [][]*pipeline.Relation

// news finds out what a transaction has to tell, and takes it for told.
func (t *told) news(tx *pipeline.Transaction) (all news) {
	if *t == nil || len(*t) >= tablesMax {
		*t = told{}
	}
	for n, f := range tx.Fragments {
		for _, use := range f.Relations {
			key, r := relationKey{f.Shard, use.Relation.ID}, use.Relation
			if known := (*t)[key]; known != nil && (known == r || sameTable(known, r)) {
				continue
			}
			(*t)[key] = r
			if all == nil {
				all = make(news, len(tx.Fragments))
			}
			all[n] = append(all[n], r)
		}
	}
	return all
}

func sameTable(a, b *pipeline.Relation) bool {
	return a.Raw != nil && bytes.Equal(a.Raw, b.Raw) && slices.Equal(a.Types, b.Types)
}

// total is how many there are.
func (n news) total() (total int) {
	for i := range n {
		total += len(n[i])
	}
	return total
}

// of is how many a fragment tells.
func (n news) of(fragment int) int {
	if n == nil {
		return 0
	}
	return len(n[fragment])
}

// describe writes the descriptions that stand in front of a change. pending are those of the fragment that are to come, in
// the order of their first use.
func (e *Encoder) describe(f *pipeline.Fragment, pending []*pipeline.Relation, c *pipeline.Change) (rest []*pipeline.Relation, err error) {
	for len(pending) > 0 && (c.Relation == pending[0] || slices.Contains(c.Truncated, pending[0])) {
		if err := e.relation(f, pending[0]); err != nil {
			return nil, err
		}
		pending = pending[1:]
	}
	return pending, nil
}

// relation writes a table's description.
func (e *Encoder) relation(f *pipeline.Fragment, r *pipeline.Relation) error {
	t, err := e.tables.of(r)
	if err != nil {
		return fmt.Errorf("shard %q: relation: %w", e.shards[f.Shard], err)
	}
	e.begin(f)
	e.buf = append(e.buf, `,"op":"relation",`...)
	e.buf = append(e.buf, t.head...)
	e.buf = append(e.buf, `,"identity":"`...)
	e.buf = append(e.buf, identityName(r.Identity)...)
	e.buf = append(e.buf, `","columns":[`...)
	for i, c := range r.Columns {
		e.comma(i)
		e.buf = append(e.buf, `{"name":`...)
		e.buf = append(e.buf, t.columns[i].quoted()...)
		if c.Key {
			e.buf = append(e.buf, `,"key":true`...)
		}
		if name := typeName(r, c.Type); name != "" {
			e.buf = append(e.buf, `,"type":`...)
			e.buf = appendText(e.buf, []byte(name))
		}
		e.buf = append(e.buf, `,"type_oid":`...)
		e.buf = strconv.AppendUint(e.buf, uint64(c.Type), 10)
		if c.Modifier >= 0 {
			e.buf = append(e.buf, `,"modifier":`...)
			e.buf = strconv.AppendInt(e.buf, int64(c.Modifier), 10)
		}
		e.buf = append(e.buf, '}')
	}
	e.buf = append(e.buf, `]}`...)
	return nil
}

func identityName(identity byte) string {
	switch identity {
	case 'n':
		return "nothing"
	case 'f':
		return "full"
	case 'i':
		return "index"
	}
	return "default"
}

// typeName is PostgreSQL's name of a type; of a type of the user's with its schema. Empty: a built-in type that is not known
// here.
func typeName(r *pipeline.Relation, oid uint32) string {
	if t, ok := r.TypeName(oid); ok {
		if t.Namespace == "pg_catalog" {
			return t.Name // the base type of a domain
		}
		return t.Namespace + "." + t.Name
	}
	if name, ok := builtIn[oid]; ok {
		return name
	}
	if name, ok := builtIn[elementOf[oid]]; ok {
		return name + "[]"
	}
	return ""
}

// builtIn are the types of pg_type.dat that columns have.
var builtIn = map[uint32]string{
	16: "bool", 17: "bytea", 18: "char", 19: "name", 20: "int8", 21: "int2", 22: "int2vector", 23: "int4", 24: "regproc", 25: "text", 26: "oid",
	27: "tid", 28: "xid", 29: "cid", 30: "oidvector", 114: "json", 142: "xml", 600: "point", 601: "lseg", 602: "path", 603: "box", 604: "polygon",
	628: "line", 650: "cidr", 700: "float4", 701: "float8", 718: "circle", 774: "macaddr8", 790: "money", 829: "macaddr", 869: "inet",
	1042: "bpchar", 1043: "varchar", 1082: "date", 1083: "time", 1114: "timestamp", 1184: "timestamptz", 1186: "interval", 1266: "timetz",
	1560: "bit", 1562: "varbit", 1700: "numeric", 2205: "regclass", 2206: "regtype", 2950: "uuid", 3220: "pg_lsn", 3614: "tsvector",
	3615: "tsquery", 3802: "jsonb", 3904: "int4range", 3906: "numrange", 3908: "tsrange", 3910: "tstzrange", 3912: "daterange", 3926: "int8range",
	4072: "jsonpath", 4451: "int4multirange", 4532: "nummultirange", 4533: "tsmultirange", 4534: "tstzmultirange", 4535: "datemultirange",
	4536: "int8multirange", 5069: "xid8",
}

// elementOf are the arrays of those.
var elementOf = map[uint32]uint32{
	1000: 16, 1001: 17, 1002: 18, 1003: 19, 1016: 20, 1005: 21, 1007: 23, 1008: 24, 1009: 25, 1028: 26, 1010: 27, 1011: 28, 1012: 29,
	199: 114, 143: 142, 1017: 600, 1018: 601, 1019: 602, 1020: 603, 1027: 604, 629: 628, 651: 650, 1021: 700, 1022: 701, 719: 718, 775: 774,
	791: 790, 1040: 829, 1041: 869, 1014: 1042, 1015: 1043, 1182: 1082, 1183: 1083, 1115: 1114, 1185: 1184, 1187: 1186, 1270: 1266, 1561: 1560,
	1563: 1562, 1231: 1700, 2951: 2950, 3221: 3220, 3643: 3614, 3645: 3615, 3807: 3802, 3905: 3904, 3907: 3906, 3909: 3908, 3911: 3910, 3913: 3912,
	3927: 3926, 4073: 4072, 6150: 4451, 6151: 4532, 6152: 4533, 6153: 4534, 6155: 4535, 6157: 4536, 271: 5069,
}
