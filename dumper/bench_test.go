package dumper

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"shardcdc/pipeline"
)

// BenchmarkRead is the reader's whole way, from the socket's bytes to Offer, of a stream in memory that is received in gulps:
// time, bytes and allocations per row. Nothing is allocated for a row; small transactions share what they need.
func BenchmarkRead(b *testing.B) {
	row := func(bytes int) []string {
		return []string{
			"1234567", "567", "2026-01-31 12:00:00+00", "1234.56", "t", strings.Repeat("u", 36), "code 1234567",
			strings.Repeat("x", bytes), "176366.714285714", `{"id": 1234567, "tag": "a"}`,
		}
	}
	for _, w := range []struct {
		name              string
		transactions, per int
		row               []string
	}{
		{"one-row", 20_000, 1, row(60)},
		{"four-rows", 5_000, 4, row(10)[:4]},
		{"bulk", 2, 10_000, row(60)},
		{"wide", 200, 10, row(4800)},
	} {
		b.Run(w.name, func(b *testing.B) {
			stream, rows := benchStream(w.transactions, w.per, w.row), w.transactions*w.per
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				sink := &countingSink{}
				d := New(Source{}, sink, Options{})
				s := &session{d: d, conn: &recorded{rest: stream}, frames: newFrames(d.opts.ReadBytes)}
				if err := s.read(context.Background()); !errors.Is(err, io.EOF) {
					b.Fatal(err)
				}
				if sink.rows != rows {
					b.Fatalf("%d of %d rows came out", sink.rows, rows)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(rows), "ns/row")
		})
	}
}

// benchStream is what a walsender sends for equal transactions of inserts.
func benchStream(transactions, rows int, values []string) []byte {
	var out []byte
	send := func(msg []byte) {
		out = binary.BigEndian.AppendUint32(append(out, 'd'), uint32(4+xlogDataHeader+len(msg)))
		out = append(append(out, 'w'), make([]byte, xlogDataHeader-1)...)
		out = append(out, msg...)
	}
	relation := append([]byte{'R', 0, 0, 0, 9}, "public\x00item\x00d"...)
	relation = binary.BigEndian.AppendUint16(relation, uint16(len(values)))
	insert := binary.BigEndian.AppendUint16([]byte{'I', 0, 0, 0, 9, 'N'}, uint16(len(values)))
	for _, v := range values {
		relation = append(relation, 0, 'c', 0, 0, 0, 0, 25, 255, 255, 255, 255)
		insert = binary.BigEndian.AppendUint32(append(insert, 't'), uint32(len(v)))
		insert = append(insert, v...)
	}
	for i := range transactions {
		at := pipeline.LSN(i+1) << 16
		send(beginMessage(at))
		if i == 0 {
			send(relation)
		}
		for range rows {
			send(insert)
		}
		send(commitMessage(at, at+0x30))
	}
	return out
}

// recorded is a connection that gives what a socket buffer of 256 kB would.
type recorded struct {
	net.Conn
	rest []byte
}

func (c *recorded) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 256<<10)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

type countingSink struct{ rows int }

func (s *countingSink) Offer(_ context.Context, _ pipeline.ShardID, records []pipeline.Record, _ pipeline.LSN) error {
	for i := range records {
		s.rows += records[i].Fragment.Changes
	}
	return nil
}

func (*countingSink) Probed(pipeline.ShardID, uint64, pipeline.Timestamp, pipeline.LSN) error {
	return nil
}
