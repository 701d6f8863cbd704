package merge

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"shardcdc/pipeline"
)

// An order is a sorted set, whatever way transactions come: rising, as from one shard, or out of order; a CSN that is used
// becomes the next one that is not.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOrder()
		var want []pipeline.CSN
		check := func() {
			lowest, highest := pipeline.CSN(0), pipeline.CSN(0)
			if len(want) > 0 {
				lowest, highest = want[0], want[len(want)-1]
			}
			got := pipeline.CSN(0)
			if first := o.min(); first != nil {
				got = first.tx.CSN
			}
			if got != lowest || o.max() != highest || o.len() != len(want) {
				t.Fatalf("from %d to %d, %d waiting; want from %d to %d, %d", got, o.max(), o.len(), lowest, highest, len(want))
			}
		}
		check()
		t.Repeat(map[string]func(*rapid.T){
			"place": func(t *rapid.T) {
				p := o.make()
				p.tx.CSN = pipeline.CSN(rapid.IntRange(1, 40).Draw(t, "csn"))
				csn := p.tx.CSN
				for slices.Contains(want, csn) {
					csn++
				}
				o.place(p)
				if p.tx.CSN != csn {
					t.Fatalf("placed at %d, want %d", p.tx.CSN, csn)
				}
				want = append(want, csn)
				slices.Sort(want)
			},
			"drop": func(t *rapid.T) {
				if first := o.min(); first != nil {
					o.drop(first)
					want = want[1:]
				}
			},
			"count": func(t *rapid.T) {
				w, enough := pipeline.CSN(rapid.IntRange(0, 50).Draw(t, "w")), rapid.IntRange(0, 5).Draw(t, "enough")
				n := 0
				for _, csn := range want {
					if csn <= w {
						n++
					}
				}
				if got := o.upTo(w, enough); got != min(n, enough) {
					t.Fatalf("%d up to %d, want %d", got, w, min(n, enough))
				}
			},
			"": func(*rapid.T) { check() },
		})
	})
}
