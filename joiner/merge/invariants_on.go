//go:build invariants

package merge

import "fmt"

// assertInvariants checks what the package doc numbers, after every step.
func (m *Merger) assertInvariants() {
	w := m.Watermark()
	if w < m.asserted {
		panic(fmt.Sprintf("I1: watermark fell from %s to %s", m.asserted, w))
	}
	m.asserted = w
	if first := m.waiting.min(); first != nil && first.tx.CSN <= m.last {
		panic(fmt.Sprintf("I4: csn %s waits after %s was taken", first.tx.CSN, m.last))
	}
	for _, s := range m.shards {
		for i := s.untaken.head + 1; i < len(s.untaken.items); i++ {
			if s.untaken.items[i-1].csn >= s.untaken.items[i].csn {
				panic(fmt.Sprintf("I5: shard %d: one-phase commits out of order", s.id))
			}
		}
		if s.confirmed > s.processed {
			panic(fmt.Sprintf("I6: shard %d: confirmed %s, processed %s", s.id, s.confirmed, s.processed))
		}
	}
}
