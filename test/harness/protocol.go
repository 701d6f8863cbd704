package harness

import (
	"bytes"
	"encoding/binary"
	"strconv"
)

// A Protocol says where messages end. It is asked once for each direction of each connection, and gives a function that
// returns the length of the first message of b, 0 as long as its end is not in b.
type Protocol func(Direction) (measure func(b []byte) int)

// Bytes is no protocol: whatever has come is a message.
func Bytes(Direction) func([]byte) int { return func(b []byte) int { return len(b) } }

// PostgreSQL is its protocol 3 without TLS: a type and a length, but for the first message of a client.
func PostgreSQL(d Direction) func([]byte) int {
	started := d == ToClient
	return func(b []byte) int {
		head := 1
		if !started {
			head = 0
		}
		if len(b) < head+4 {
			return 0
		}
		n := head + int(binary.BigEndian.Uint32(b[head:]))
		if n > len(b) {
			return 0
		}
		started = true
		return n
	}
}

// NATS is its client protocol: a line, behind which PUB, HPUB, MSG and HMSG have as many bytes as it says.
func NATS(Direction) func([]byte) int {
	return func(b []byte) int {
		end := bytes.Index(b, []byte("\r\n"))
		if end < 0 {
			return 0
		}
		n := end + 2
		verb, rest, _ := bytes.Cut(b[:end], []byte(" "))
		switch string(verb) {
		case "PUB", "HPUB", "MSG", "HMSG":
			size, err := strconv.Atoi(string(rest[bytes.LastIndexByte(rest, ' ')+1:]))
			if err != nil {
				return n // the ends will say what they think of it
			}
			n += size + 2
		}
		if n > len(b) {
			return 0
		}
		return n
	}
}

// NATSMessage is a PUB, HPUB, MSG or HMSG.
type NATSMessage struct {
	Verb, Subject, Reply string
	Header, Data         []byte
}

// ParseNATS reads a whole message that NATS measured; ok is false when it carries nothing.
func ParseNATS(b []byte) (m NATSMessage, ok bool) {
	line, body, _ := bytes.Cut(b, []byte("\r\n"))
	words := bytes.Fields(line)
	if len(words) < 3 {
		return m, false
	}
	m.Verb, m.Subject = string(words[0]), string(words[1])
	fixed := map[string]int{"PUB": 3, "HPUB": 4, "MSG": 4, "HMSG": 5}[m.Verb]
	if fixed == 0 || len(body) < 2 || len(words) < fixed {
		return m, false
	}
	if len(words) > fixed { // the reply stands before the sizes
		sizes := 1
		if m.Verb[0] == 'H' {
			sizes = 2
		}
		m.Reply = string(words[len(words)-sizes-1])
	}
	body = body[:len(body)-2]
	if m.Verb[0] != 'H' {
		m.Data = body
		return m, true
	}
	n, err := strconv.Atoi(string(words[len(words)-2]))
	if err != nil || n > len(body) {
		return m, false
	}
	m.Header, m.Data = body[:n], body[n:]
	return m, true
}

// Get is a header's value, empty if it is not there.
func (m *NATSMessage) Get(header string) string {
	for line := range bytes.SplitSeq(m.Header, []byte("\r\n")) {
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && string(name) == header {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}
