package main

import (
	"context"
	"fmt"
	"time"
)

// A Contender drains backlogs.
type Contender interface {
	Name() string
	// TwoPhase says how its slot is made.
	TwoPhase() bool
	// Drain reads the backlog from the slot, which has this name on every shard, to its end, and leaves no process behind.
	// It may be called again with another slot. An error ends the run.
	Drain(ctx context.Context, b *Backlog, slot string) (Drain, error)
}

// Drain is one measured drain.
type Drain struct {
	Round   int     `json:"round"`
	Seconds float64 `json:"seconds"`
	// Count is what the contender itself counted; zero when it cannot.
	Count Count `json:"count"`
	// Processes are what each kind of process took.
	Processes map[string]Usage `json:"processes"`
	// Looks is how often the target was looked at, and showed what the source was.
	Looks int `json:"looks,omitempty"`
}

// between is a drain from the moment when the first walsender began.
func between(began, ended time.Time) Drain {
	return Drain{Seconds: ended.Sub(began).Seconds(), Processes: map[string]Usage{}}
}

// counted checks what a contender of ours counted.
func (b *Backlog) counted(got Count) error {
	if got != b.Expected {
		return fmt.Errorf("%d transactions with %d rows came out; the backlog has %d with %d", got.Transactions, got.Rows, b.Expected.Transactions, b.Expected.Rows)
	}
	return nil
}

// A Goal is a ratio of two contenders that the report shows: of their speeds; or, if processes are named, of the CPU time
// that these take.
type Goal struct{ Ours, Base, OurProcess, BaseProcess string }

// contenders are all for a workload, in the report's order. version is the servers'.
func contenders(version int) []Contender {
	list := []Contender{
		&recvlogical{unix: false}, &recvlogical{unix: true},
		&captureOnly{}, &captureOnly{withoutJoin: true},
		&durable{format: "internal"}, &durable{format: "json"},
	}
	for _, commit := range []string{"on", "off"} {
		list = append(list, &native{commit: commit}, &native{commit: commit, binary: true})
	}
	list = append(list, &native{commit: "off", streaming: "on"})
	if version >= 16 {
		list = append(list, &native{commit: "off", streaming: "parallel"})
	}
	for _, commit := range []string{"on", "off"} {
		list = append(list, &replay{commit: commit}, &replay{commit: commit, stored: true})
	}
	return list
}

// goals are the ratios that are of interest.
var goals = []Goal{
	{Ours: "capture", Base: "pg_recvlogical tcp"},
	{Ours: "capture", Base: "pg_recvlogical unix"},
	{Ours: "capture", OurProcess: "capture", Base: "capture", BaseProcess: "walsender"},
	{Ours: "capture", OurProcess: "capture", Base: "dumpers", BaseProcess: "dumpers"},
	{Ours: "durable internal", Base: "pg_recvlogical tcp"},
	{Ours: "durable json", Base: "pg_recvlogical tcp"},
	{Ours: "path commit=on", Base: "native commit=on"},
	{Ours: "path commit=off", Base: "native commit=off"},
	{Ours: "stored commit=on", Base: "native commit=on"},
	{Ours: "stored commit=off", Base: "native commit=off"},
}
