package main

import (
	"context"
	"fmt"
	"time"
)

// A Contender drains backlogs.
type Contender interface {
	Name() string
	// Reads says what it drains; slots are made accordingly.
	Reads() Backing
	// Drain reads the backlog to its end, and leaves no process behind: from the slot, which has this name on every shard; or
	// from the backlog's stream, and then it only uses the name. It may be called again with another slot. An error ends the run.
	Drain(ctx context.Context, b *Backlog, slot string) (Drain, error)
}

// Backing is what a contender drains.
type Backing int

const (
	Slot         Backing = iota // a slot of its own for each drain
	TwoPhaseSlot                // the same, made with two_phase
	Stream                      // the backlog's stream, filled once; each drain has a copy
)

// Drain is one measured drain.
type Drain struct {
	Round   int     `json:"round"`
	Seconds float64 `json:"seconds"`
	// Count is what the contender itself counted; zero when it cannot.
	Count Count `json:"count"`
	// Processes are what each kind of process took.
	Processes map[string]Usage `json:"processes"`
	// Looks is how often the target was looked at; Wrong, in how many looks it showed what the source never was. Ours may not.
	Looks int `json:"looks,omitempty"`
	Wrong int `json:"wrong,omitempty"`
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

// workers are the numbers of sessions that ours apply with.
var workers = []int{1, 2, 4, 8}

// usualWorkers is the product's default.
const usualWorkers = 4

// contenders are all for a workload, in the report's order. version is the servers'. With synchronous_commit on only the usual
// number of sessions is run: native takes long then, and what more sessions give shows with it off.
func contenders(version int) []Contender {
	streaming := "on"
	if version >= 16 {
		streaming = "parallel"
	}
	list := []Contender{
		&recvlogical{unix: false}, &recvlogical{unix: true},
		&captureOnly{}, &captureOnly{withoutJoin: true},
		&durable{format: "internal"}, &durable{format: "json"},
		&native{commit: "on"}, &native{commit: "off"}, &native{commit: "off", binary: true}, &native{commit: "off", streaming: streaming},
		&stored{commit: "on", workers: usualWorkers},
	}
	for _, n := range workers {
		list = append(list, &stored{commit: "off", workers: n})
	}
	list = append(list, &path{commit: "on", workers: usualWorkers})
	for _, n := range workers {
		list = append(list, &path{commit: "off", workers: n})
	}
	return list
}
