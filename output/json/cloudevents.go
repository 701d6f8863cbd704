package json

import (
	"strconv"

	"shardcdc/output"
	"shardcdc/pipeline"
)

// appendCloudEvent appends the attributes of CloudEvents 1.0 in binary mode: headers with the prefix "ce-", and the data's content
// type. All values are of printable ASCII, so none has to be escaped.
func appendCloudEvent(dst []output.Header, source, id string, x *end) []output.Header {
	dst = append(dst,
		output.Header{Name: "ce-specversion", Value: "1.0"},
		output.Header{Name: "ce-id", Value: id},
		output.Header{Name: "ce-source", Value: source},
		output.Header{Name: "ce-type", Value: cloudEventTypes[x.op]},
		output.Header{Name: "ce-time", Value: x.time},
		output.Header{Name: "content-type", Value: "application/json"},
	)
	if x.subject != "" {
		dst = append(dst, output.Header{Name: "ce-subject", Value: x.subject})
	}
	return dst
}

// cloudEventTypes are the values of ce-type, by op.
var cloudEventTypes = func() map[string]string {
	types := map[string]string{}
	for _, op := range []string{"insert", "update", "delete", "read", "truncate", "relation", opMessage, opDDL, opCopy, opTransaction} {
		types[op] = "shardcdc." + op
	}
	return types
}()

// appendID appends an event's id: where its fragment ends in its shard's WAL, and which of the fragment's changes it is. So it is the
// same when a node that takes over publishes a transaction again, though it may have another CSN and describe other tables then.
// A description, and the truncation of each table of a statement, stand at the place of a change and have an id of their own.
func appendID(dst []byte, shard string, at pipeline.LSN, nth int, op string, id uint32) []byte {
	dst = append(dst, shard...)
	dst = append(dst, '/')
	dst = appendHex(dst, uint32(at>>32))
	dst = append(dst, '/')
	dst = appendHex(dst, uint32(at))
	dst = append(dst, '/')
	if op == opTransaction {
		return append(dst, "end"...)
	}
	dst = strconv.AppendInt(dst, int64(nth), 10)
	if id != 0 {
		dst = append(append(dst, '/'), op...)
		dst = strconv.AppendUint(append(dst, '/'), uint64(id), 10)
	}
	return dst
}
