package output

import (
	"fmt"
	"testing"

	"shardcdc/pipeline"
)

// BenchmarkInternal is a unit of 1000 rows: allocations for a unit, none for a row or a transaction.
func BenchmarkInternal(b *testing.B) {
	for _, rows := range []int{1, 100} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			var csns []pipeline.CSN
			for i := range 1000 / rows {
				csns = append(csns, pipeline.CSN(i+1))
			}
			batch, size := batch(0, csns...), 0
			for _, tx := range batch.Transactions {
				for range rows {
					tx.Fragments[0].Append(append([]byte("M\x00\x00\x00\x00\x00\x00\x00\x00\x01p\x00\x00\x00\x00\xc8"), make([]byte, 200)...))
				}
				size += int(tx.Bytes())
			}
			e := NewInternal()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Encode(batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
