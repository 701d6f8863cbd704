package node

import (
	"context"
	"log/slog"
	"time"

	"shardcdc/pipeline/control"
)

// DefaultLeaseTTL suits one NATS server. A cluster needs more: its elections block renewals.
const DefaultLeaseTTL = 3 * time.Second

const acquireEvery = 250 * time.Millisecond

// whileLeased runs the work whenever this process has the lease of key, until ctx ends. The lease is given back
// when work returns.
func whileLeased(ctx context.Context, leases *control.Leases, key, process string, log *slog.Logger, work func(context.Context)) {
	for ctx.Err() == nil {
		lease, err := leases.Acquire(ctx, key, control.Owner{Node: process, Since: time.Now().UTC()})
		if err != nil && ctx.Err() == nil {
			log.Warn("cannot get the lease", "error", err)
		}
		if lease == nil {
			wait(ctx, acquireEvery)
			continue
		}
		log.Info("has the lease")
		work(lease.Context)
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		if err := lease.Release(release); err != nil && ctx.Err() == nil {
			log.Warn("cannot release the lease; it ends by itself", "error", err)
		}
		cancel()
		wait(ctx, acquireEvery) // others may have it first
	}
}
