package reading

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// memory is a source of messages in memory, in the order of their sequences.
type memory []*Message

func (s memory) Borders() (first, last pipeline.Seq) {
	if len(s) == 0 {
		return 1, 0
	}
	return s[0].Seq, s[len(s)-1].Seq
}

func (s memory) Get(_ context.Context, seq pipeline.Seq) (*Message, error) {
	for _, m := range s {
		if m.Seq == seq {
			return m, nil
		}
	}
	return nil, ErrGone
}

func (s memory) Read(_ context.Context, from pipeline.Seq, _ bool, fn func(*Message) error) error {
	for _, m := range s {
		if m.Seq < from {
			continue
		}
		if err := fn(m); errors.Is(err, ErrStop) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// script writes a random stream, and knows what a reader has to see of it.
type script struct {
	dice     *rand.Rand
	seq      pipeline.Seq
	unit     pipeline.Seq
	csn      pipeline.CSN
	messages memory
	txs      []Transaction
}

func (s *script) add(subject string, csn pipeline.CSN, part, data string, end bool) {
	s.seq++
	h := nats.Header{}
	if csn > 0 {
		h.Set(wire.HeaderCSN, csn.String())
		h.Set(wire.HeaderUnit, strconv.Itoa(int(s.unit)))
	}
	if part != "" {
		h.Set(wire.HeaderPart, part)
	}
	if end {
		h.Set(wire.HeaderCheckpoint, "x")
	}
	s.messages = append(s.messages, &Message{Seq: s.seq, Time: time.Unix(int64(s.seq), 0), Subject: subject, Header: h, Data: []byte(data)})
}

// write writes a unit, the beginning of one whose writer died, a watermark, or an epoch.
func (s *script) write() {
	switch s.dice.IntN(8) {
	case 0:
		s.add(wire.EpochSubject("s"), 0, "", "", false)
		return
	case 1:
		s.add(wire.WatermarkSubject("s"), max(1, s.csn), "", "", true)
		s.unit = s.seq
		return
	}
	dead := s.dice.IntN(4) == 0
	csn := s.csn
	n, from := 1+s.dice.IntN(3), len(s.txs)
	for i := range n {
		csn += pipeline.CSN(1 + s.dice.IntN(5))
		parts := 1 + s.dice.IntN(3)
		first := s.seq + 1
		for k := 1; k <= parts; k++ {
			if dead && i == n-1 && k == parts {
				if s.seq >= first || i > 0 { // else it wrote nothing
					s.add(wire.EpochSubject("s"), 0, "", "", false)
				}
				s.txs = s.txs[:from]
				return
			}
			part := ""
			if parts > 1 {
				part = wire.PartHeader(k, parts)
			}
			text := fmt.Sprintf(`{"csn":"%s","changes":[]}`, csn)
			cut := func(k int) int { return len(text) * k / parts }
			s.add(wire.Subject("s"), csn, part, text[cut(k-1):cut(k)], i == n-1 && k == parts)
		}
		s.txs = append(s.txs, Transaction{Head: Head{CSN: csn}, Place: Place{First: first, Last: s.seq}})
	}
	for i := from; i < len(s.txs); i++ {
		s.txs[i].UnitEnd, s.txs[i].Stored = s.seq, time.Unix(int64(s.seq), 0)
	}
	s.csn, s.unit = csn, s.seq
}

// whole says that the unit of a transaction is there, and that it shows: everything behind the unit before is there, or an epoch in
// front of it.
func (s *script) whole(t *Transaction, first pipeline.Seq) bool {
	begin := t.First
	for i := range s.txs {
		if s.txs[i].UnitEnd == t.UnitEnd {
			begin = min(begin, s.txs[i].First)
		}
	}
	before, _, _ := s.messages[begin-1].UnitBefore()
	for _, m := range s.messages[before:begin] {
		if m.Seq >= first && (m.Seq == before+1 || m.Subject == wire.EpochSubject("s")) {
			return true
		}
	}
	return false
}

// Whatever a stream looks like, a reading that begins anywhere shows every transaction from there on whose unit is there, each once.
func TestFirst(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		s := &script{dice: dice}
		for range dice.IntN(12) {
			s.write()
		}
		have := s.messages
		if n := len(have); n > 0 && dice.IntN(3) == 0 {
			have = have[dice.IntN(n):] // its beginning was removed
		}
		first, last := have.Borders()
		positions := []Position{{}, {CSN: pipeline.CSN(dice.IntN(int(s.csn) + 3))}, {Seq: pipeline.Seq(1 + dice.IntN(int(s.seq)+3))}, {Time: time.Unix(int64(dice.IntN(int(s.seq)+3)), 0)}, {Now: true}}
		for _, p := range positions {
			var want, got []pipeline.CSN
			for i := range s.txs {
				if tx := &s.txs[i]; p.Includes(tx) && !p.Now && s.whole(tx, first) {
					want = append(want, tx.CSN)
				}
			}
			begin, err := First(t.Context(), have, p)
			if err != nil {
				t.Fatal(err)
			}
			r := NewReader(subscription(format.Format{Name: format.JSON}), BytesMax)
			err = have.Read(t.Context(), begin, false, func(m *Message) error {
				txs, err := r.Add(m)
				for _, tx := range txs {
					if p.Includes(tx) {
						got = append(got, tx.CSN)
					}
				}
				return err
			})
			if err != nil {
				t.Fatalf("%+v from %d: %v\n%s", p, begin, err, have)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("stream %d to %d, position %+v, begun at %d: csns %v, want %v\n%s", first, last, p, begin, got, want, have)
			}
		}
	}
}

func (s memory) String() (text string) {
	for _, m := range s {
		text += fmt.Sprintf("%d %s csn %s unit %s part %s end %v\n", m.Seq, m.Subject, m.Header.Get(wire.HeaderCSN), m.Header.Get(wire.HeaderUnit), m.Header.Get(wire.HeaderPart), m.Ends())
	}
	return text
}
