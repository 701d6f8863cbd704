package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// Roles of a Process. One operating system process may have both (cdcd all).
const (
	RoleCapture = "capture"
	RoleApply   = "apply"
)

// Process is what a process says about itself that takes part.
type Process struct {
	Name    string    `json:"name"`
	Role    string    `json:"role"`
	Since   time.Time `json:"since"` // when it started
	Version string    `json:"version"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Work    []Work    `json:"work"`
}

// Work is a lease that a process has, or stands by for.
type Work struct {
	Subscription string    `json:"subscription"`
	Target       string    `json:"target,omitempty"`
	Running      bool      `json:"running"` // false: it stands by
	Since        time.Time `json:"since"`
}

// SortWork puts it into the order that it is shown in.
func SortWork(w []Work) {
	slices.SortFunc(w, func(a, b Work) int {
		return cmp.Or(cmp.Compare(a.Subscription, b.Subscription), cmp.Compare(a.Target, b.Target))
	})
}

const processSubject = "_CDC.processes"

// ServeProcess answers requests for who takes part until the returned function is called.
func ServeProcess(nc *nats.Conn, status func() Process) (stop func(), err error) {
	return serve(nc, processSubject, func() any { return status() })
}

const (
	processesWait  = time.Second            // for the first answer
	processesQuiet = 400 * time.Millisecond // and for another one after that
)

// AskProcesses asks who takes part. A process that is frozen or cut off does not answer; what it held is in the leases.
func AskProcesses(ctx context.Context, nc *nats.Conn) ([]Process, error) {
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("ask for the processes: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.PublishRequest(processSubject, inbox, nil); err != nil {
		return nil, fmt.Errorf("ask for the processes: %w", err)
	}
	all := []Process{}
	for wait := processesWait; ; wait = processesQuiet {
		p, err := nextProcess(ctx, sub, wait)
		switch {
		case errors.Is(err, ErrNobody):
			slices.SortFunc(all, func(a, b Process) int { return cmp.Or(cmp.Compare(a.Name, b.Name), -cmp.Compare(a.Role, b.Role)) })
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("ask for the processes: %w", err)
		}
		all = append(all, p)
	}
}

func nextProcess(ctx context.Context, sub *nats.Subscription, wait time.Duration) (p Process, err error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	m, err := sub.NextMsgWithContext(waiting)
	switch {
	case ctx.Err() != nil:
		return p, ctx.Err()
	case errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded):
		return p, ErrNobody
	case err != nil:
		return p, err
	case len(m.Data) == 0 && m.Header.Get("Status") == "503":
		return p, ErrNobody
	}
	return p, json.Unmarshal(m.Data, &p)
}

// Version names the build of this program.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
