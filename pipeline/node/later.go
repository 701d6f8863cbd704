package node

import (
	"sync"
	"time"

	"shardcdc/pipeline"
)

const (
	// lazyDelay is twice the longest time that a server leaves acknowledged messages unsynced by default.
	lazyDelay = 4 * time.Minute
	// lazyStep is the time whose confirmations are kept as one, so that few are kept however many units there are.
	lazyStep = time.Second
)

// later holds confirmations back until the server has surely synced what they rely on: lazyDelay and at most lazyStep
// more.
type later struct {
	mu   sync.Mutex
	held []confirmation
}

type confirmation struct {
	since, until time.Time // of the first and the last confirmation in it
	lsns         []pipeline.LSN
}

// add takes the positions of a unit acknowledged now. They never go back.
func (l *later) add(now time.Time, lsns []pipeline.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.held); n > 0 && now.Sub(l.held[n-1].since) < lazyStep {
		l.held[n-1].until, l.held[n-1].lsns = now, lsns
		return
	}
	l.held = append(l.held, confirmation{since: now, until: now, lsns: lsns})
}

// due returns the positions that may be confirmed by now, nil when there are no new ones.
func (l *later) due(now time.Time) (lsns []pipeline.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.held) && now.Sub(l.held[n].until) >= lazyDelay {
		lsns = l.held[n].lsns
		n++
	}
	l.held = append(l.held[:0], l.held[n:]...)
	return lsns
}

// safe is where each shard may be confirmed by a checkpoint.
func safe(at pipeline.Checkpoint) []pipeline.LSN {
	lsns := make([]pipeline.LSN, len(at.Shards))
	for i := range lsns {
		lsns[i] = at.Shards[i].Safe()
	}
	return lsns
}
