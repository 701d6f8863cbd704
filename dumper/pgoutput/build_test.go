package pgoutput_test

import (
	"encoding/binary"
	"strings"

	"shardcdc/pipeline"
)

// What follows builds messages by hand. Positions of one transaction: its record runs from lsn to lsn+0x30.

const recordSize = 0x30

func build(kind byte, parts ...any) []byte {
	b := []byte{kind}
	for _, p := range parts {
		switch p := p.(type) {
		case byte:
			b = append(b, p)
		case uint16:
			b = binary.BigEndian.AppendUint16(b, p)
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(p))
		case uint32:
			b = binary.BigEndian.AppendUint32(b, p)
		case pipeline.LSN:
			b = binary.BigEndian.AppendUint64(b, uint64(p))
		case pipeline.Timestamp:
			b = binary.BigEndian.AppendUint64(b, uint64(p))
		case string:
			b = append(append(b, p...), 0)
		case []byte:
			b = append(b, p...)
		default:
			panic("build: unknown part")
		}
	}
	return b
}

func clock(l pipeline.LSN) pipeline.Timestamp { return 1e15 + pipeline.Timestamp(l) }

func begin(l pipeline.LSN) []byte { return build('B', l, clock(l), 700) }
func commit(l pipeline.LSN) []byte {
	return build('C', byte(0), l, l+recordSize, clock(l))
}

func beginPrepare(l pipeline.LSN, gid string) []byte {
	return build('b', l, l+recordSize, clock(l), 700, gid)
}

func prepare(l pipeline.LSN, gid string) []byte {
	return build('P', byte(0), l, l+recordSize, clock(l), 700, gid)
}

func commitPrepared(l pipeline.LSN, gid string) []byte {
	return build('K', byte(0), l, l+recordSize, clock(l), 700, gid)
}

func rollbackPrepared(prepareEnd, end pipeline.LSN, gid string) []byte {
	return build('r', byte(0), prepareEnd, end, clock(prepareEnd), clock(end), 700, gid)
}

func origin(name string) []byte           { return build('O', pipeline.LSN(1), name) }
func typ(oid int, ns, name string) []byte { return build('Y', oid, ns, name) }

// relation describes a table of text columns; "name:16400" gives a column another type.
func relation(id int, table string, cols ...string) []byte {
	ns, name, _ := strings.Cut(table, ".")
	b := build('R', id, ns, name, byte('d'), uint16(len(cols)))
	for _, c := range cols {
		oid := uint32(25)
		if name, custom := strings.CutSuffix(c, ":16400"); custom {
			c, oid = name, 16400
		}
		b = append(b, build(0, c, oid, uint32(0xFFFFFFFF))...)
	}
	return b
}

func tuple(vals ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(vals)))
	for _, v := range vals {
		b = append(b, 't')
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

func insert(id int, vals ...string) []byte { return build('I', id, byte('N'), tuple(vals...)) }
func deleteKey(id int, vals ...string) []byte {
	return build('D', id, byte('K'), tuple(vals...))
}

func update(id int, vals ...string) []byte { return build('U', id, byte('N'), tuple(vals...)) }

func truncate(ids ...int) []byte {
	b := build('T', len(ids), byte(1))
	for _, id := range ids {
		b = binary.BigEndian.AppendUint32(b, uint32(id))
	}
	return b
}

func message(flags byte, prefix, content string) []byte {
	return build('M', flags, pipeline.LSN(9), prefix, len(content), []byte(content))
}
