package lint

import (
	"bytes"
	"fmt"
	"go/ast"
	"regexp"
	"strings"
)

// Limits of length, in lines.
const (
	fileLinesMax     = 500
	functionLinesMax = 80
)

// allowed lists the exceptions, "path" or "path function", each with the reason that shows.
var (
	allowedLong  = map[string]string{}
	allowedSleep = map[string]string{
		"apply/parallel_test.go": "sleeps in the fake time of testing/synctest",
		"apply/worker_test.go":   "sleeps in the fake time of testing/synctest",
	}
)

// Length checks the length of files and functions. Tests may be long: a table is.
func Length(s *Source) []Fault {
	if s.Go == nil || s.IsTest() || ast.IsGenerated(s.Go) {
		return nil
	}
	var faults []Fault
	if lines := bytes.Count(s.Text, []byte("\n")); lines > fileLinesMax && allowedLong[s.Path] == "" {
		faults = append(faults, s.fault(s.Go, "%d lines, more than %d; split the file by what its parts do", lines, fileLinesMax))
	}
	for _, decl := range s.Go.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || allowedLong[s.Path+" "+f.Name.Name] != "" {
			continue
		}
		if lines := s.set.Position(f.End()).Line - s.set.Position(f.Pos()).Line + 1; lines > functionLinesMax {
			faults = append(faults, s.fault(f, "%s has %d lines, more than %d; give its steps names of their own", f.Name.Name, lines, functionLinesMax))
		}
	}
	return faults
}

// Sleep checks that nobody sleeps, tests above all.
func Sleep(s *Source) []Fault {
	if s.Go == nil || allowedSleep[s.Path] != "" {
		return nil
	}
	var faults []Fault
	clockName := s.nameOf("time")
	if clockName == "." {
		faults = append(faults, s.fault(s.Go.Name, `imports . "time"; import it by name`))
	}
	ast.Inspect(s.Go, func(n ast.Node) bool {
		if e, ok := n.(*ast.SelectorExpr); ok && selects(e, clockName, "Sleep") {
			text := "time.Sleep cannot be interrupted; select on a timer and on ctx.Done()"
			if s.IsTest() {
				text = "a test that sleeps is slow or flaky; wait for the condition, or advance time with testing/synctest"
			}
			faults = append(faults, s.fault(e, "%s", text))
		}
		return true
	})
	return faults
}

// The repository speaks of the product alone: not of the machine that it was written on. The patterns are in pieces so that
// they do not find themselves.
var outside = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`(^|[^\w./-])/wo` + `rk(/|\b)`), "a path of one machine; write it relative to the repository, or use a temporary folder"},
	{regexp.MustCompile(`(^|[^\w.-])/ro` + `ot/`), "a path of one machine; write it relative to the repository, or use a temporary folder"},
	{regexp.MustCompile(`/home/[a-z]\w*/|/Users/[A-Za-z]\w*/`), "a path of one machine; write it relative to the repository, or use a temporary folder"},
	{regexp.MustCompile(`\bshar` + `ed/(design|style|reference)`), "a document that readers do not have; say what it says, or name a file in docs"},
	{regexp.MustCompile(`(?i)https?://[^/\s"]*(artifactory|nexus|jfrog|verdaccio)`), "a private registry; leave the host to the tool's own configuration"},
}

// Words checks a text file for what does not belong into the repository.
func Words(s *Source) []Fault {
	var faults []Fault
	number := 0
	for line := range strings.Lines(string(s.Text)) {
		number++
		for _, o := range outside {
			if found := o.pattern.FindString(line); found != "" {
				faults = append(faults, Fault{s.Path, number, fmt.Sprintf("%q is %s", strings.TrimSpace(found), o.instead)})
			}
		}
	}
	return faults
}
