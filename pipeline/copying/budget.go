package copying

import (
	"context"
	"sync"
)

// budget counts bytes of memory. One who takes waits while others have all of it; one alone may exceed it.
type budget struct {
	max int64

	mu    sync.Mutex
	used  int64
	freed chan struct{} // closed and replaced when something was given back
}

func newBudget(max int64) *budget { return &budget{max: max, freed: make(chan struct{})} }

// take waits until n fit.
func (b *budget) take(ctx context.Context, n int64) error {
	for {
		b.mu.Lock()
		if b.used == 0 || b.used+n <= b.max {
			b.used += n
			b.mu.Unlock()
			return nil
		}
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// add corrects what was taken: it turned out to be n more, or less.
func (b *budget) add(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += n
	if n < 0 {
		close(b.freed)
		b.freed = make(chan struct{})
	}
}
