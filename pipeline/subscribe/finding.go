package subscribe

import (
	"errors"
	"fmt"
	"strings"
)

// Severity of a Finding.
type Severity string

const (
	Error   Severity = "error"   // it would not work
	Warning Severity = "warning" // it works, and may surprise
	Info    Severity = "info"    // good to know
)

// Finding is something that a check found.
type Finding struct {
	Severity Severity `json:"severity"`
	About    string   `json:"about"` // "shard a", "target t", "NATS", or empty
	What     string   `json:"what"`
	Try      string   `json:"try,omitempty"` // what mends it
}

func (f Finding) String() string {
	s := f.What
	if f.About != "" {
		s = f.About + ": " + s
	}
	if f.Try != "" {
		s = strings.TrimSuffix(s, ".") + ". Try: " + f.Try
	}
	return s
}

// Notes are findings that did not stop a call.
type Notes []Finding

// Faults are the findings that did, as one error: all of them at once.
type Faults []Finding

func (f Faults) Error() string {
	if len(f) == 1 {
		return f[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d things are wrong:", len(f))
	for _, one := range f {
		b.WriteString("\n  - " + one.String())
	}
	return b.String()
}

// split parts errors from the rest. faults is nil when there are none.
func split(findings []Finding) (notes Notes, faults error) {
	var errs Faults
	for _, f := range findings {
		if f.Severity == Error {
			errs = append(errs, f)
		} else {
			notes = append(notes, f)
		}
	}
	if len(errs) > 0 {
		faults = errs
	}
	return notes, faults
}

func faultf(about, try, format string, args ...any) Finding {
	return Finding{Severity: Error, About: about, What: fmt.Sprintf(format, args...), Try: try}
}

// FaultOf makes a Finding of an error, whose text may end with its own remedy.
func FaultOf(about string, err error) Finding {
	what, try, _ := strings.Cut(err.Error(), ". Try: ")
	return Finding{Severity: Error, About: about, What: what, Try: try}
}

// FaultsOf takes an error apart that may be Faults.
func FaultsOf(err error) Faults {
	var faults Faults
	switch {
	case err == nil:
		return nil
	case errors.As(err, &faults):
		return faults
	}
	return Faults{FaultOf("", err)}
}

// Worst is the worst severity among findings; Info when there are none.
func Worst(findings []Finding) Severity {
	worst := Info
	for _, f := range findings {
		if f.Severity == Error || f.Severity == Warning && worst == Info {
			worst = f.Severity
		}
	}
	return worst
}
