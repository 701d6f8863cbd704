package debezium

import (
	"slices"
	"strconv"
)

// node is a schema of Kafka Connect, as its JSON converter writes it. Its methods return another one.
type node struct {
	kind     string // the type
	inside   string // of lists, maps and structs: what they consist of
	rest     string // name, version, doc, parameters, default
	params   []string
	nullable bool
	of       string // the field that it is the schema of
	// required, of a list: its elements are never null.
	items    *node
	required bool
}

func plainNode(kind string) node { return node{kind: kind} }

// named is a node with a name, in its first version.
func named(kind, name string) node { return plainNode(kind).name(name) }

func (n node) name(name string) node {
	n.rest += `,"name":` + quote(name) + `,"version":1`
	return n
}

func (n node) doc(text string) node {
	n.rest += `,"doc":` + quote(text)
	return n
}

func (n node) parameter(name, value string) node {
	n.params = append(slices.Clone(n.params), quote(name)+":"+quote(value))
	return n
}

func (n node) optional() node {
	n.nullable = true
	return n
}

func (n node) field(name string) node {
	n.of = name
	return n
}

func (n node) fields(list ...node) node {
	n.inside = `,"fields":[`
	for i, f := range list {
		if i > 0 {
			n.inside += ","
		}
		n.inside += f.String()
	}
	n.inside += "]"
	return n
}

// arrayNode: elements may be null.
func arrayNode(item node) node { return node{kind: "array", items: &item} }

func mapNode(key, value node) node {
	return node{kind: "map", inside: `,"keys":` + key.String() + `,"values":` + value.optional().String()}
}

func decimalNode(scale int) node {
	return named("bytes", "org.apache.kafka.connect.data.Decimal").parameter("scale", strconv.Itoa(scale))
}

// String is the node as JSON.
func (n node) String() string {
	s := `{"type":"` + n.kind + `"`
	if n.items != nil {
		item := *n.items
		item.nullable = !n.required
		s += `,"items":` + item.String()
	}
	s += n.inside + `,"optional":` + strconv.FormatBool(n.nullable) + n.rest
	if len(n.params) > 0 {
		s += `,"parameters":{`
		for i, p := range n.params {
			if i > 0 {
				s += ","
			}
			s += p
		}
		s += "}"
	}
	if n.of != "" {
		s += `,"field":` + quote(n.of)
	}
	return s + "}"
}

// snapshotKinds are those that Debezium's schema allows.
const snapshotKinds = "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"

// sourceNode is Debezium's source block, and behind it what only a stream of several shards has.
func sourceNode() node {
	text, long := plainNode("string"), plainNode("int64")
	snapshot := named("string", "io.debezium.data.Enum").optional().parameter("allowed", snapshotKinds)
	return named("struct", "io.debezium.connector.postgresql.Source").fields(
		text.field("version"), text.field("connector"), text.field("name"), long.field("ts_ms"),
		snapshot.withDefault("false").field("snapshot"), text.field("db"), text.optional().field("sequence"),
		long.optional().field("ts_us"), long.optional().field("ts_ns"), text.field("schema"), text.field("table"),
		long.optional().field("txId"), long.optional().field("lsn"), long.optional().field("xmin"),
		text.field("csn"), text.field("shard"),
	).field("source")
}

// withDefault stands behind the parameters.
func (n node) withDefault(text string) node {
	for i, p := range n.params {
		if i == 0 {
			n.rest += `,"parameters":{`
		} else {
			n.rest += ","
		}
		n.rest += p
	}
	n.params = nil
	n.rest += `},"default":` + quote(text)
	return n
}

func transactionNode() node {
	long := plainNode("int64")
	return named("struct", "event.block").optional().fields(
		plainNode("string").field("id"), long.field("total_order"), long.field("data_collection_order"),
	).field("transaction")
}

// envelopeNode is the schema of a row's event.
func envelopeNode(topic string, row node) node {
	long := plainNode("int64").optional()
	n := node{kind: "struct", rest: `,"name":` + quote(topic+".Envelope") + `,"version":2`}
	return n.fields(
		row.optional().field("before"), row.optional().field("after"), sourceNode(), transactionNode(),
		plainNode("string").field("op"), long.field("ts_ms"), long.field("ts_us"), long.field("ts_ns"))
}

// unversioned is a struct with a name only, as rows and keys are.
func unversioned(name string, fields []node) node {
	return node{kind: "struct", rest: `,"name":` + quote(name)}.fields(fields...)
}

func messageNode(content node) node {
	text := plainNode("string")
	return named("struct", "io.debezium.connector.postgresql.MessageValue").fields(
		text.field("op"), plainNode("int64").optional().field("ts_ms"), sourceNode(), transactionNode(),
		named("struct", "io.debezium.connector.postgresql.Message").fields(
			text.optional().field("prefix"), content.optional().field("content")).field("message"))
}

func messageKeyNode() node {
	return named("struct", "io.debezium.connector.postgresql.MessageKey").fields(plainNode("string").optional().field("prefix"))
}

// boundaryNode is the schema of BEGIN and END, with what readers of the stream need besides.
func boundaryNode() node {
	text, long := plainNode("string"), plainNode("int64")
	collection := named("struct", "event.collection").fields(text.field("data_collection"), long.field("event_count"))
	return named("struct", "io.debezium.connector.common.TransactionMetadataValue").fields(
		text.field("status"), text.field("id"), long.optional().field("event_count"),
		arrayNode(collection).optional().field("data_collections"), long.field("ts_ms"),
		text.field("csn"), text.field("previous"), text.optional().field("gid"))
}

func boundaryKeyNode() node {
	return named("struct", "io.debezium.connector.common.TransactionMetadataKey").fields(plainNode("string").field("id"))
}
