package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"shardcdc/pipeline"
)

// AppliedAt says that a target has every transaction up to a CSN since a time.
type AppliedAt struct {
	CSN pipeline.CSN `json:"csn"`
	At  time.Time    `json:"at"` // by the worker's clock, when it knew that the target had committed
}

// AppliedLog is what a worker remembers of when its target had what: the last AppliedLogMax commits, some 3 MB, for as long as the
// worker runs. It is the answer to a question about the past, and nothing depends on it.
type AppliedLog struct {
	mu    sync.Mutex
	ring  []AppliedAt
	next  int          // in ring, once it is full
	since pipeline.CSN // where the target was before the first entry that is kept
}

// AppliedLogMax bounds an AppliedLog.
const AppliedLogMax = 65_536

// Begin notes where the target is before the first Add.
func (l *AppliedLog) Begin(at pipeline.CSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) == 0 {
		l.since = at
	}
}

// Add notes a commit on the target.
func (l *AppliedLog) Add(a AppliedAt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < AppliedLogMax {
		l.ring = append(l.ring, a)
		return
	}
	l.since = l.ring[l.next].CSN
	l.ring[l.next] = a
	l.next = (l.next + 1) % AppliedLogMax
}

// AppliedPart is some of an AppliedLog: in the order of CSNs.
type AppliedPart struct {
	// Since: what has this CSN or a lower one was applied before the first entry; when is not known.
	Since   pipeline.CSN `json:"since"`
	Entries []AppliedAt  `json:"entries"`
	More    bool         `json:"more"` // entries follow
}

// appliedPartMax entries fit a message of 1 MB.
const appliedPartMax = 8192

// From are the entries from the one on in which a CSN was applied.
func (l *AppliedLog) From(csn pipeline.CSN) AppliedPart {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.ring)
	at := func(i int) AppliedAt { return l.ring[(l.next+i)%n] }
	first := sort.Search(n, func(i int) bool { return at(i).CSN >= csn })
	p := AppliedPart{Since: l.since}
	if first > 0 {
		p.Since = at(first - 1).CSN
	}
	for i := first; i < n && len(p.Entries) < appliedPartMax; i++ {
		p.Entries = append(p.Entries, at(i))
	}
	p.More = first+len(p.Entries) < n
	return p
}

// When is the time at which a CSN was applied; zero: it is not known, or it is not applied.
func (p *AppliedPart) When(csn pipeline.CSN) time.Time {
	i := sort.Search(len(p.Entries), func(i int) bool { return p.Entries[i].CSN >= csn })
	if csn <= p.Since || i == len(p.Entries) {
		return time.Time{}
	}
	return p.Entries[i].At
}

func appliedSubject(subscription, target string) string {
	return "_CDC.applied." + subscription + "." + target
}

// ServeApplied answers questions about a worker's AppliedLog until the returned function is called.
func ServeApplied(nc *nats.Conn, subscription, target string, log *AppliedLog) (stop func(), err error) {
	sub, err := nc.Subscribe(appliedSubject(subscription, target), func(m *nats.Msg) {
		csn, err := pipeline.ParseCSN(string(m.Data))
		if err != nil {
			return // no question of ours
		}
		b, err := json.Marshal(log.From(csn))
		if err != nil {
			return
		}
		_ = m.Respond(b) // whoever asked asks again
	})
	if err != nil {
		return nil, fmt.Errorf("serve when %s was applied on %s: %w", subscription, target, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

// AskApplied asks the worker of a target when it applied what, from one CSN to another; ErrNobody if none answers.
func AskApplied(ctx context.Context, nc *nats.Conn, subscription, target string, from, to pipeline.CSN) (AppliedPart, error) {
	var all AppliedPart
	for {
		p, err := askAppliedPart(ctx, nc, subscription, target, from)
		if err != nil {
			return all, err
		}
		if all.Entries == nil {
			all.Since = p.Since
		}
		all.Entries = append(all.Entries, p.Entries...)
		n := len(all.Entries)
		if !p.More || n == 0 || all.Entries[n-1].CSN >= to {
			return all, nil
		}
		from = all.Entries[n-1].CSN + 1
	}
}

func askAppliedPart(ctx context.Context, nc *nats.Conn, subscription, target string, from pipeline.CSN) (p AppliedPart, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, appliedSubject(subscription, target), []byte(from.String()))
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) {
		return p, ErrNobody
	}
	if err != nil {
		return p, fmt.Errorf("ask when target %s applied: %w", target, err)
	}
	if err := json.Unmarshal(m.Data, &p); err != nil {
		return p, fmt.Errorf("ask when target %s applied: %w", target, err)
	}
	return p, nil
}
