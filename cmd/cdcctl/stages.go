package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/reading"
)

// stage is when a transaction reached a stage of its way.
type stage struct {
	Stage  string     `json:"stage"`            // committed, taken, stored, applied
	Target string     `json:"target,omitempty"` // of applied
	At     *time.Time `json:"at"`               // null: it is not known, or it did not come there; see Note
	Clock  string     `json:"clock"`            // whose: shard, node, nats, worker
	// Seconds are those since committed: a difference of two clocks. Absent without either.
	Seconds *float64 `json:"seconds_after_commit,omitempty"`
	Note    string   `json:"note,omitempty"` // why At is null
}

// targetLog is what is known about when a target applied what.
type targetLog struct {
	target  string
	part    control.AppliedPart
	applied pipeline.CSN // where the target is; 0: nobody answers
}

// targetLogs asks the workers. Offline there are none.
func targetLogs(ctx context.Context, s *storedStream, from, to pipeline.CSN) ([]targetLog, error) {
	if s.bus == nil {
		return nil, nil
	}
	logs := make([]targetLog, len(s.sub.Targets))
	for i, t := range s.sub.Targets {
		l := &logs[i]
		l.target = t.Name
		status, err := control.AskApply(ctx, s.bus.NC, s.sub.Name, t.Name)
		if err == nil {
			l.applied = status.AppliedCSN
			l.part, err = control.AskApplied(ctx, s.bus.NC, s.sub.Name, t.Name, from, to)
		}
		if err != nil && !errors.Is(err, control.ErrNobody) {
			return nil, err
		}
	}
	return logs, nil
}

// commitTime is a transaction's; zero: the stream does not say it.
func commitTime(t *reading.Transaction) (time.Time, error) {
	if t.CommitTime == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, t.CommitTime)
	if err != nil {
		return at, fmt.Errorf("csn %s: commit time %q: %w", t.CSN, t.CommitTime, err)
	}
	return at, nil
}

// stagesOf are the stages of a transaction, in their order.
func stagesOf(t *reading.Transaction, logs []targetLog) ([]stage, error) {
	committed, err := commitTime(t)
	if err != nil {
		return nil, err
	}
	all := []stage{
		{Stage: "committed", At: known(committed), Clock: "shard"},
		{Stage: "taken", At: known(t.Taken), Clock: "node"},
		{Stage: "stored", At: known(t.Stored), Clock: "nats"},
	}
	for i := range logs {
		l := &logs[i]
		s := stage{Stage: "applied", Target: l.target, At: known(l.part.When(t.CSN)), Clock: "worker"}
		switch {
		case s.At != nil:
		case l.applied == 0:
			s.Note = "no worker answers"
		case t.CSN > l.applied:
			s.Note = "not applied yet"
		default:
			s.Note = "applied, before what its worker remembers"
		}
		all = append(all, s)
	}
	for i := range all {
		if s := &all[i]; s.At != nil && !committed.IsZero() {
			after := s.At.Sub(committed).Seconds()
			s.Seconds = &after
		}
	}
	return all, nil
}

func known(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	at = at.UTC()
	return &at
}
