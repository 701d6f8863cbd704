package control

import (
	"testing"
	"time"

	"shardcdc/pipeline"
)

// The log forgets the oldest, and says what it does not know.
func TestAppliedLog(t *testing.T) {
	l := &AppliedLog{}
	at := func(n int) time.Time { return time.Unix(int64(n), 0).UTC() }
	l.Begin(5)
	l.Add(AppliedAt{10, at(1)})
	l.Begin(99) // only the first one counts
	for n := 2; n <= 10; n++ {
		l.Add(AppliedAt{pipeline.CSN(10 * n), at(n)})
	}
	when := func(csn pipeline.CSN) time.Time {
		p := l.From(csn)
		return p.When(csn)
	}
	for csn, want := range map[pipeline.CSN]time.Time{5: {}, 6: at(1), 10: at(1), 11: at(2), 100: at(10), 101: {}} {
		if got := when(csn); !got.Equal(want) {
			t.Errorf("csn %s was applied %s, want %s", csn, got, want)
		}
	}
	for n := 11; n < 11+AppliedLogMax; n++ {
		l.Add(AppliedAt{pipeline.CSN(10 * n), at(n)})
	}
	if got := when(100); !got.IsZero() {
		t.Errorf("what was forgotten was applied %s", got)
	}
	if got := when(101); !got.Equal(at(11)) {
		t.Errorf("the oldest one that is known was applied %s", got)
	}
	p := l.From(0)
	if len(p.Entries) != appliedPartMax || !p.More || p.Since != 100 || p.Entries[0].CSN != 110 {
		t.Errorf("first part: %d entries from %v, since %s, more %v", len(p.Entries), p.Entries[0], p.Since, p.More)
	}
	if p := l.From(10 * (10 + AppliedLogMax)); len(p.Entries) != 1 || p.More {
		t.Errorf("last part: %+v", p)
	}
}
