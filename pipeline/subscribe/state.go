package subscribe

import (
	"context"
	"errors"
	"fmt"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause"
)

// SetState pauses or resumes a subscription and waits until the processes have followed: paused when nobody works for it
// any more, active when a node says that it runs. An error after the state was written says so.
func SetState(ctx context.Context, bus *control.Bus, name string, to control.State, o Options) error {
	catalog, err := control.OpenCatalog(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return err
	}
	e, err := setState(ctx, catalog, name, to)
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, o.wait())
	defer cancel()
	if to == control.Active && e.Imported {
		return nil // apply workers begin by themselves
	}
	if to == control.Active {
		return awaitRunning(ctx, waiting, bus, name)
	}
	return awaitIdle(ctx, waiting, bus, e.Subscription)
}

// setState writes the state. Dropping is never left.
func setState(ctx context.Context, catalog *control.Catalog, name string, to control.State) (control.Entry, error) {
	return catalog.Change(ctx, name, func(sub *control.Subscription) error {
		if sub.State == control.Dropping && to != control.Dropping {
			return fmt.Errorf("subscription %s is being dropped. Try: cdcctl drop-subscription %s, which goes on", name, name)
		}
		sub.State = to
		return nil
	})
}

// awaitWorkersGone waits until no apply worker answers for the subscription's targets.
func awaitWorkersGone(ctx context.Context, bus *control.Bus, sub *control.Subscription) error {
	for _, t := range sub.Targets {
		for {
			st, err := control.AskApply(ctx, bus.NC, sub.Name, t.Name)
			if ctx.Err() != nil {
				return fmt.Errorf("subscription %s: the apply worker of target %s on %s has not let go in time. Try: stop that process and repeat", sub.Name, t.Name, st.Node)
			}
			if errors.Is(err, control.ErrNobody) {
				break
			}
			if err != nil {
				return err
			}
			_ = pause.For(ctx, pollEvery) // the next look tells
		}
	}
	return nil
}

// awaitIdle waits until no node holds the lease and no worker answers.
func awaitIdle(ctx, waiting context.Context, bus *control.Bus, sub *control.Subscription) error {
	if err := awaitWorkersGone(waiting, bus, sub); err != nil {
		return err
	}
	leases, err := control.OpenLeases(ctx, bus.JS, bus.Replicas, leaseTTL)
	if err != nil {
		return err
	}
	for {
		owner, held, err := leases.Holder(ctx, control.CaptureLease(sub.Name))
		if err != nil || !held {
			return err
		}
		if pause.For(waiting, pollEvery) != nil {
			return late(ctx, "subscription %s is marked %s, but node %s has not let go in time. Try: cdcctl status %s", sub.Name, sub.State, owner.Node, sub.Name)
		}
	}
}

// awaitRunning waits until a node says that it runs.
func awaitRunning(ctx, waiting context.Context, bus *control.Bus, name string) error {
	for {
		st, err := control.AskCapture(waiting, bus.NC, name)
		if err == nil && st.State == "running" {
			return nil
		}
		if pause.For(waiting, pollEvery) != nil {
			switch {
			case st.Error != "":
				return late(ctx, "subscription %s is marked active, and node %s cannot run it: %s", name, st.Node, st.Error)
			case st.State != "":
				return late(ctx, "subscription %s is marked active; node %s is still %s. Try: cdcctl status %s", name, st.Node, st.State, name)
			}
			return late(ctx, "subscription %s is marked active, but no node runs it. Try: cdcd node", name)
		}
	}
}

// late is the error of a wait that ended; the caller's own end comes first.
func late(ctx context.Context, format string, args ...any) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf(format, args...)
}
