package wire

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Headers of the messages in a subscription's stream.
const (
	// HeaderFormat names the payload's format: internal, json.
	HeaderFormat = "Cdc-Format"
	// HeaderEpoch is the writer's epoch, the fencing token.
	HeaderEpoch = "Cdc-Epoch"
	// HeaderCSN is the CSN of the last transaction in the message, in decimal.
	HeaderCSN = "Cdc-Csn"
	// HeaderWatermark is a CSN: no transaction with it or a lower one will follow.
	HeaderWatermark = "Cdc-Watermark"
	// HeaderPart is "k/n" on the k-th of n messages over which one payload is split; else it is absent.
	HeaderPart = "Cdc-Part"
	// HeaderCheckpoint is a CheckpointHeader, or a CheckpointReference. It stands on the last message of a unit and
	// marks its end: readers act on nothing of a unit before they have it.
	HeaderCheckpoint = "Cdc-Checkpoint"
	// HeaderUnit is the stream sequence of the message that ended the unit before; 0: there is none.
	HeaderUnit = "Cdc-Unit"
	// HeaderTaken stands on the last message of a unit: when the node took the unit from the joiner to publish it, by the node's
	// clock, in microseconds since 1970.
	HeaderTaken = "Cdc-Taken"
	// HeaderKey is the key of a row in Debezium's form, as JSON; HeaderTombstone is "true" on an empty message behind a delete.
	HeaderKey       = "Cdc-Key"
	HeaderTombstone = "Cdc-Tombstone"
	// HeaderUnchanged names, in Debezium's form, the columns whose TOAST value was not sent: a JSON array.
	HeaderUnchanged = "Cdc-Unchanged"
)

// MetadataIncarnation is the key in a stream's metadata of its incarnation, a random name that its creator gave: a stream
// that was deleted and made again is another one.
const MetadataIncarnation = "cdc_incarnation"

// StreamName is the JetStream stream of a subscription.
func StreamName(subscription string) string { return "CDC_" + EncodeToken(subscription) }

// Subject carries a subscription's transactions.
func Subject(subscription string) string { return subject(subscription) + "._tx" }

// EpochSubject carries the epochs of a subscription's writers.
func EpochSubject(subscription string) string { return subject(subscription) + "._ctl.epoch" }

// WatermarkSubject carries watermarks when no transaction does.
func WatermarkSubject(subscription string) string { return subject(subscription) + "._ctl.watermark" }

// CheckpointSubject carries checkpoints that are too large for a header, each just before the end of its unit.
func CheckpointSubject(subscription string) string { return subject(subscription) + "._ctl.checkpoint" }

// TableSubject carries one table's rows, where they are published row by row.
func TableSubject(subscription, schema, table string) string {
	return SubjectOf(subscription, TableTokens(schema, table))
}

// TableTokens is what TableSubject has behind the subscription's part.
func TableTokens(schema, table string) string { return EncodeToken(schema) + "." + EncodeToken(table) }

// What is no row, where rows are published one by one.
const (
	MessageTokens = "_message" // logical messages
	DDLTokens     = "_ddl"     // statements that changed tables
	CopyTokens    = "_copy"    // marks of copies
)

// SubjectOf is a subject of the subscription's, from its tokens.
func SubjectOf(subscription, tokens string) string { return subject(subscription) + "." + tokens }

// AllSubjects matches every subject of a subscription's stream.
func AllSubjects(subscription string) string { return subject(subscription) + ".>" }

// subject: names of tables never meet "_tx" and "_ctl", because EncodeToken encodes a leading '_'.
func subject(subscription string) string { return "cdc." + EncodeToken(subscription) }

// Split cuts a payload into parts of at most limit bytes (at least 1), views into it. A payload that fits is
// one part, the empty one too.
func Split(payload []byte, limit int) [][]byte {
	if limit < 1 {
		panic(fmt.Sprintf("wire: parts of %d bytes", limit))
	}
	parts := make([][]byte, 0, len(payload)/limit+1)
	for len(payload) > limit {
		parts = append(parts, payload[:limit:limit])
		payload = payload[limit:]
	}
	return append(parts, payload)
}

// PartHeader is the value of HeaderPart for part k of n, 1 <= k <= n.
func PartHeader(k, n int) string { return strconv.Itoa(k) + "/" + strconv.Itoa(n) }

// ParsePart reads what PartHeader wrote.
func ParsePart(value string) (k, n int, err error) {
	left, right, _ := strings.Cut(value, "/")
	k, errK := strconv.Atoi(left)
	n, errN := strconv.Atoi(right)
	if errK != nil || errN != nil || k < 1 || n < k || PartHeader(k, n) != value {
		return 0, 0, fmt.Errorf("header %s %q: want k/n with 1 <= k <= n", HeaderPart, value)
	}
	return k, n, nil
}

// Collector puts payloads together again from the messages of a stream, in their order.
//
// A writer that crashes, or loses its lease, between the parts of a payload leaves the beginning of it in the
// stream. The next writer knows from the end marks that the unit is not in the stream and publishes it anew,
// perhaps packed differently. So a first part, and a payload in one message, discard an unfinished payload: they
// cannot follow one in any other way, because one writer's messages are in order and without gaps. Every other
// surprise is an error.
type Collector struct {
	limit int
	parts [][]byte // of the unfinished payload
	of    int
	bytes int
}

// NewCollector makes a Collector that refuses payloads of several parts with more than limit bytes.
func NewCollector(limit int) *Collector { return &Collector{limit: limit} }

// Add takes the next message: its HeaderPart, "" when it has none, and its data. With the last part it returns
// the payload and true. The collector keeps data until then, and a payload of one message is data itself; a
// payload put together is the caller's. After an error the unfinished payload is gone.
func (c *Collector) Add(part string, data []byte) (payload []byte, complete bool, err error) {
	if part == "" {
		c.Reset()
		return data, true, nil
	}
	if err := c.add(part, data); err != nil {
		c.Reset()
		return nil, false, err
	}
	if len(c.parts) < c.of {
		return nil, false, nil
	}
	payload = data
	if c.of > 1 {
		payload = bytes.Join(c.parts, nil)
	}
	c.Reset()
	return payload, true, nil
}

func (c *Collector) add(part string, data []byte) error {
	k, n, err := ParsePart(part)
	if err != nil {
		return err
	}
	if k == 1 {
		c.Reset()
		c.of = n
	}
	if k != len(c.parts)+1 || n != c.of {
		return fmt.Errorf("part %s of a payload follows %s", part, c.have())
	}
	if len(data) == 0 && n > 1 {
		return fmt.Errorf("part %s of a payload is empty", part)
	}
	if n > 1 && len(data) > c.limit-c.bytes {
		return fmt.Errorf("payload of %d parts exceeds %d bytes at part %d. Try: raise the reader's limit of bytes", n, c.limit, k)
	}
	c.parts = append(c.parts, data)
	c.bytes += len(data)
	return nil
}

func (c *Collector) have() string {
	if len(c.parts) == 0 {
		return "no first part"
	}
	return "part " + PartHeader(len(c.parts), c.of)
}

// Pending says that a payload is unfinished.
func (c *Collector) Pending() bool { return len(c.parts) > 0 }

// Reset discards an unfinished payload, as a reader does that goes to another place in the stream.
func (c *Collector) Reset() {
	clear(c.parts)
	c.parts, c.of, c.bytes = c.parts[:0], 0, 0
}
