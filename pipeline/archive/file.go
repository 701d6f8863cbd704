package archive

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/reading"
)

const (
	magic       = "CDCA"
	version     = 1
	sectionSize = 1 + 4 + 4 // in front of each payload
	blockSize   = 8 + 4 + 4 // in front of a block's messages

	sectionHead  = 'H'
	sectionBlock = 'B'
	sectionEnd   = 'E'

	// blockBytes is what a block holds before it is packed; one message may exceed it.
	blockBytes = 4 << 20
	// blockBytesMax is the largest block that is read: more than the largest message that a NATS server takes.
	blockBytesMax = 128 << 20

	// messageBytesMin is what the shortest message takes in a block: a time, and the lengths of a subject, a header and the data.
	messageBytesMin = 8 + 1 + 1 + 1
	// headerValuesMax is more than a message of a subscription's stream has; a file cannot claim memory with them.
	headerValuesMax = 1024
	// firstMax leaves room for every message that a file can hold behind it.
	firstMax = 1 << 62
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Head stands in front of the messages.
type Head struct {
	// Subscription is the catalog's entry, without DSNs.
	Subscription *control.Subscription `json:"subscription"`
	First        pipeline.Seq          `json:"first"` // sequence of the first message
	Exported     time.Time             `json:"exported"`
}

// End stands behind the messages.
type End struct {
	Last      pipeline.Seq `json:"last"` // sequence of the last message
	Messages  int64        `json:"messages"`
	Bytes     int64        `json:"bytes"`     // of the messages, unpacked
	CSN       pipeline.CSN `json:"csn"`       // of the last transaction; 0: there is none
	Watermark pipeline.CSN `json:"watermark"` // of the last unit: nothing at or below it follows
}

// sectionOf is a section's header.
func sectionOf(kind byte, payload []byte) [sectionSize]byte {
	var h [sectionSize]byte
	h[0] = kind
	binary.BigEndian.PutUint32(h[1:], uint32(len(payload)))
	crc := crc32.Update(crc32.Checksum(h[:5], castagnoli), castagnoli, payload)
	binary.BigEndian.PutUint32(h[5:], crc)
	return h
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendMessage(dst []byte, m *reading.Message) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Time.UnixNano()))
	dst = appendString(dst, m.Subject)
	n := 0
	for _, values := range m.Header {
		n += len(values)
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	for _, name := range sortedNames(m.Header) {
		for _, v := range m.Header[name] {
			dst = appendString(appendString(dst, name), v)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(m.Data)))
	return append(dst, m.Data...)
}

var errShort = errors.New("it is too short")

// takeString reads what appendString wrote.
func takeString(b []byte) (s, rest []byte, err error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, errShort
	}
	b = b[size:]
	return b[:n:n], b[n:], nil
}

// takeMessage reads what appendMessage wrote. Its data is a view.
func takeMessage(b []byte) (m *reading.Message, rest []byte, err error) {
	if len(b) < 8 {
		return nil, nil, errShort
	}
	m = &reading.Message{Time: time.Unix(0, int64(binary.BigEndian.Uint64(b))).UTC()}
	subject, b, err := takeString(b[8:])
	if err != nil {
		return nil, nil, err
	}
	m.Subject = string(subject)
	n, size := binary.Uvarint(b)
	if size <= 0 {
		return nil, nil, errShort
	}
	if n > headerValuesMax {
		return nil, nil, fmt.Errorf("%d header values, and %d at most", n, headerValuesMax)
	}
	b = b[size:]
	m.Header = make(map[string][]string)
	for range n {
		var name, value []byte
		if name, b, err = takeString(b); err != nil {
			return nil, nil, err
		}
		if value, b, err = takeString(b); err != nil {
			return nil, nil, err
		}
		m.Header[string(name)] = append(m.Header[string(name)], string(value))
	}
	m.Data, b, err = takeString(b)
	return m, b, err
}

// decodeJSON reads the head or the end.
func decodeJSON(payload []byte, into any) error {
	if err := json.Unmarshal(payload, into); err != nil {
		return fmt.Errorf("damaged: %w", err)
	}
	return nil
}
