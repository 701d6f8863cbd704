package apply

import (
	"errors"
	"fmt"
	"strings"

	"shardcdc/pipeline"
)

// Blocked says that the target refuses a transaction and will go on refusing until somebody mends something
// there. Nothing of the group was applied. The worker shows it and tries again.
type Blocked struct {
	CSN     pipeline.CSN // zero: not one transaction's fault
	Table   string       // on the target, quoted where it must be; empty: none
	Row     string       // the row's key, "(id)=(5)"; empty: not one row's fault
	Problem string
	Err     error  // the target's own words; may be nil
	Try     string // what to do, without "Try: "
}

func (e *Blocked) Error() string {
	var b strings.Builder
	if e.CSN != 0 {
		fmt.Fprintf(&b, "csn %s: ", e.CSN)
	}
	if e.Table != "" {
		fmt.Fprintf(&b, "table %s: ", e.Table)
	}
	if e.Row != "" {
		fmt.Fprintf(&b, "row %s: ", e.Row)
	}
	return finish(&b, e.Problem, e.Err, e.Try)
}

func (e *Blocked) Unwrap() error { return e.Err }

// Fatal says that going on would lose or repeat transactions, or that another worker goes on already.
type Fatal struct {
	Problem string
	Err     error  // may be nil
	Try     string // what to do, without "Try: "
}

func (e *Fatal) Error() string { return finish(new(strings.Builder), e.Problem, e.Err, e.Try) }

func (e *Fatal) Unwrap() error { return e.Err }

func finish(b *strings.Builder, problem string, err error, try string) string {
	b.WriteString(problem)
	if err != nil {
		if problem != "" {
			b.WriteString(": ")
		}
		b.WriteString(err.Error())
	}
	if try != "" {
		b.WriteString(". Try: ")
		b.WriteString(try)
	}
	return b.String()
}

// ErrNoStream is what a Source returns when the stream does not exist.
var ErrNoStream = errors.New("the stream does not exist")

// Abandoned says that a unit in parts has no end: its writer died or lost its lease, and another one went on. The unit
// comes again behind the dead parts, perhaps packed otherwise.
type Abandoned struct {
	Seq   pipeline.Seq // of the last dead message
	Stamp int64        // when the server stored that
}

func (e *Abandoned) Error() string {
	return fmt.Sprintf("the unit up to stream sequence %d was abandoned by its writer", e.Seq)
}

// ReadError says that rows could not be read from where they are, the stream or a file. Nothing is known about the rows.
type ReadError struct{ Err error }

func (e *ReadError) Error() string { return e.Err.Error() }

func (e *ReadError) Unwrap() error { return e.Err }
