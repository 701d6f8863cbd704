// Package pausetest is how tests wait for what no signal tells.
package pausetest

import (
	"context"
	"testing"
	"time"

	"shardcdc/pipeline/pause"
)

// every is often enough for a person, and seldom enough for who is waited for.
const every = 10 * time.Millisecond

// Until looks again until ok holds. The test fails when ctx ends before.
func Until(ctx context.Context, t testing.TB, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		if pause.For(ctx, every) != nil {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// Within is Until with a limit of its own. It serves a test's clean-up too, when the test's own context has ended.
func Within(limit time.Duration, t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	Until(ctx, t, what, ok)
}
