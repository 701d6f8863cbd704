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
