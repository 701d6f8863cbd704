package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/dsn"
)

// blocked is the state of a worker that its target refuses.
const blocked = "blocked"

func skipCommand() *cobra.Command {
	var (
		nats cli.NATS
		csn  string
		s    skipping
	)
	cmd := &cobra.Command{
		Use:   "skip NAME --csn N --target T --reason TEXT",
		Short: "Leave out the one transaction that a target refuses, for good",
		Long: `Tells the apply worker of a target to leave out the transaction that it is stuck at, all of it, on every table: the
target then differs from the shards there. It works only for the transaction that cdcctl status shows as blocked. The
order is recorded for ever in cdcctl history, and on the target: in its table cdc.skipped, or in the index of its folder.

The other way is to repair: mend the target (a constraint, a missing table, a row that is in the way), and the worker
goes on by itself within a second.

Exit codes: 0 the worker is past it; 1 it is not stuck there, no worker runs, or not in time; 2 called in a wrong way.`,
		Example: "  cdcctl skip bank --csn 116523456789012480 --target replica --reason 'ticket 4711: duplicate invoice'",
		Args:    cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if s.csn, err = pipeline.ParseCSN(csn); err != nil || s.csn == 0 {
				return cli.Usagef("--csn %q: want the CSN that the target is stuck at. Try: cdcctl status %s", csn, args[0])
			}
			if s.reason = strings.TrimSpace(s.reason); s.reason == "" || len(s.reason) > control.ReasonBytesMax {
				return cli.Usagef("--reason is missing or longer than %d bytes. Try: --reason 'ticket 4711: duplicate invoice'", control.ReasonBytesMax)
			}
			return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
				e, err := catalog.Get(ctx, args[0])
				if err != nil {
					return err
				}
				s.bus, s.sub = bus, e.Subscription
				text, err := s.run(ctx)
				if err == nil {
					_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&csn, "csn", "", "the transaction that the target is stuck at")
	cmd.Flags().StringVar(&s.target, "target", "", "name of the target; may be left out when there is one")
	cmd.Flags().StringVar(&s.reason, "reason", "", "why, for those who come later")
	cmd.Flags().DurationVar(&s.timeout, "timeout", 30*time.Second, "how long to wait until the worker is past it")
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

// skipping is a call of cdcctl skip.
type skipping struct {
	csn     pipeline.CSN
	target  string
	reason  string
	timeout time.Duration
	bus     *control.Bus
	sub     *control.Subscription
	skips   *control.Skips
}

// run orders the skip, waits for it, and returns what was left out.
func (s *skipping) run(ctx context.Context) (string, error) {
	err := s.chooseTarget()
	if err != nil {
		return "", err
	}
	if s.skips, err = control.OpenSkips(ctx, s.bus.JS, s.bus.Replicas); err != nil {
		return "", err
	}
	st, err := s.ask(ctx)
	if err != nil {
		return "", err
	}
	before, err := s.skips.Get(ctx, s.sub.Name, s.target, s.csn)
	switch {
	case err != nil:
		return "", err
	case before != nil && st.AppliedCSN >= s.csn:
		return fmt.Sprintf("Target %s left out csn %s already, as %s ordered on %s: %s", s.target, s.csn, before.By, moment(before.At), before.Reason), nil
	case st.State != blocked || st.Blocked == nil || st.Blocked.CSN != s.csn:
		return "", s.elsewhere(st)
	}
	what := st.Blocked.String()
	if err := s.order(ctx, what); err != nil {
		return "", err
	}
	if err := s.passed(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("Target %s left out the transaction that it refused: %s.\n"+
		"Its %s says what it lacks. The rows, while the stream keeps them: cdcctl tail %s --from-csn %s --count 1 --follow=false",
		s.target, what, skippedPlace(s.sub, s.target), s.sub.Name, s.csn), nil
}

// skippedPlace is where a target says what it lacks. One that the catalog does not name is taken for a database.
func skippedPlace(sub *control.Subscription, target string) string {
	for _, t := range sub.Targets {
		if t.Name != target {
			continue
		}
		switch dsn.KindOf(t.DSN) {
		case dsn.Files:
			return "index"
		case dsn.MySQL:
			return "table cdc_skipped"
		case dsn.PostgreSQL:
		}
	}
	return "table cdc.skipped"
}

// chooseTarget takes the only one when none is given. One that the catalog does not name may have a worker of its own
// (cdcd apply --target).
func (s *skipping) chooseTarget() error {
	var names []string
	for _, t := range s.sub.Targets {
		names = append(names, t.Name)
	}
	switch {
	case s.target != "":
		if err := control.CheckName("target", s.target); err != nil {
			return cli.UsageError{Err: err}
		}
	case len(names) == 1:
		s.target = names[0]
	default:
		return cli.Usagef("subscription %s has %d targets (%s); which one is to leave it out? Try: --target NAME", s.sub.Name, len(names), strings.Join(names, ", "))
	}
	return nil
}

// named says that the catalog names the target.
func (s *skipping) named() bool {
	return slices.ContainsFunc(s.sub.Targets, func(t control.Target) bool { return t.Name == s.target })
}

func (s *skipping) ask(ctx context.Context) (control.ApplyStatus, error) {
	st, err := control.AskApply(ctx, s.bus.NC, s.sub.Name, s.target)
	switch {
	case errors.Is(err, control.ErrNobody) && s.sub.State != control.Active:
		return st, fmt.Errorf("subscription %s is %s, so target %s is stuck nowhere. Try: cdcctl resume %s", s.sub.Name, s.sub.State, s.target, s.sub.Name)
	case errors.Is(err, control.ErrNobody) && !s.named():
		return st, fmt.Errorf("no apply worker answers for target %s, and the catalog names no such target of %s. Try: cdcctl status %s, which shows the targets", s.target, s.sub.Name, s.sub.Name)
	case errors.Is(err, control.ErrNobody):
		return st, fmt.Errorf("no apply worker answers for target %s of %s, so it is not known where it is stuck. Try: cdcd apply, then cdcctl status %s", s.target, s.sub.Name, s.sub.Name)
	case err != nil:
		return st, fmt.Errorf("ask for the status of %s on target %s: %w", s.sub.Name, s.target, err)
	}
	return st, nil
}

// elsewhere says where the target stands.
func (s *skipping) elsewhere(st control.ApplyStatus) error {
	if st.Blocked != nil && st.Blocked.CSN != 0 {
		why, _, _ := strings.Cut(st.Error, ". Try: ") // its own advice is in status
		return fmt.Errorf("target %s is not stuck at csn %s but at csn %s: %s. Try: cdcctl status %s, which says how to mend it; or cdcctl skip %s --target %s --csn %s --reason …",
			s.target, s.csn, st.Blocked.CSN, why, s.sub.Name, s.sub.Name, s.target, st.Blocked.CSN)
	}
	if st.Error != "" {
		return fmt.Errorf("target %s is not stuck at csn %s; it is %s, and has everything up to csn %s: %s", s.target, s.csn, st.State, st.AppliedCSN, st.Error)
	}
	return fmt.Errorf("target %s is not stuck; it is %s, and has everything up to csn %s. Try: cdcctl status %s", s.target, st.State, st.AppliedCSN, s.sub.Name)
}

// order makes the skip durable, in the history first: nothing is ever left out that is not in there.
func (s *skipping) order(ctx context.Context, what string) error {
	k := control.Skip{CSN: s.csn, Reason: s.reason, By: person(), At: time.Now().UTC()}
	if err := record(ctx, s.bus, s.sub, control.Event{Kind: control.Skipped, Target: s.target, CSN: s.csn, Why: s.reason + " (" + what + ")"}); err != nil {
		return err
	}
	return s.skips.Put(ctx, s.sub.Name, s.target, k)
}

// passed waits until the worker is past the transaction.
func (s *skipping) passed(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last control.ApplyStatus
	for {
		st, err := control.AskApply(waiting, s.bus.NC, s.sub.Name, s.target)
		switch {
		case err == nil && st.AppliedCSN >= s.csn:
			return nil
		case err == nil:
			last = st
		case !errors.Is(err, control.ErrNobody) && waiting.Err() == nil:
			return err
		}
		select {
		case <-tick.C:
		case <-waiting.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("the order to skip csn %s is recorded, but target %s is not past it within %s; it is %s: %s. Try: cdcctl status %s",
				s.csn, s.target, s.timeout, last.State, last.Error, s.sub.Name)
		}
	}
}
