package node

import (
	"context"
	"fmt"
	"time"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/spill"
)

// What a process finds out before it takes part: a process that took leases first would keep others from the work that it
// cannot do, or that people could not tell is its.

// checkSpillDir makes a folder there and removes it, as every subscription will.
func checkSpillDir(dir string) error {
	folder, err := spill.Open(dir, "start", 1)
	if err == nil {
		err = folder.Close()
	}
	if err != nil {
		return fmt.Errorf("--spill-dir %s cannot be used: %w", dir, err)
	}
	return nil
}

// checkName refuses the name of a live process of this role. Capture and apply of one process (cdcd all) share a name. A
// dead process does not answer, so it can be restarted at once.
//
// BUG(names): two processes of one name that start within the same milliseconds do not see each other.
func checkName(ctx context.Context, bus *control.Bus, name, role string) error {
	all, err := control.AskProcesses(ctx, bus.NC)
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.Name == name && p.Role == role {
			return fmt.Errorf("a process named %s (%s) runs already: process %d on host %s, since %s. Try: another --node-name, or none, which makes one up; or stop that process",
				name, role, p.PID, p.Host, p.Since.Format(time.RFC3339))
		}
	}
	return nil
}
