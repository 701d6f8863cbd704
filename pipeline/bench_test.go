package pipeline

import (
	"encoding/binary"
	"testing"
)

// BenchmarkWalk is one row of ten columns, as every encoder and target reads it: no allocation for a row.
func BenchmarkWalk(b *testing.B) {
	const rows, columns = 1000, 10
	insert := []byte{'I', 0, 0, 0, 1, 'N', 0, columns}
	for range columns {
		insert = append(insert, 't')
		insert = binary.BigEndian.AppendUint32(insert, 22)
		insert = append(insert, "0123456789012345678901"...)
	}
	f := &Fragment{Relations: []RelationUse{{Relation: &Relation{ID: 1, Columns: make([]Column, columns)}}}}
	for range rows {
		f.Append(insert)
	}
	var values []Value
	b.SetBytes(int64(len(f.Body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Walk(func(c *Change) error {
			values = c.New.Values(values[:0])
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
}
