// Package pause waits for a time that nothing can shorten but the end of the work: between two attempts, between two looks
// at something that cannot be waited for.
package pause

import (
	"context"
	"time"
)

// For returns nil when d is over, or ctx's error when ctx ends before or has ended. Zero is no time at all.
func For(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
