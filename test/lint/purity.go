package lint

import (
	"go/ast"
	"go/token"
	"slices"
)

// What a pure package may not import, itself or below, and what to do instead.
var impure = []struct{ folder, instead string }{
	{"context", "return what is wanted; the shell around it waits and cancels"},
	{"sync", "a value has one owner; the shell around it locks"},
	{"os", "take an io.Reader, or bytes; the shell around it opens files"},
	{"net", "take and return values; the shell around it talks to the network"},
	{"io/fs", "take an io.Reader, or bytes; the shell around it opens files"},
	{"io/ioutil", "take an io.Reader, or bytes; the shell around it opens files"},
	{"log", "return it, or offer a callback; the shell around it logs"},
	{"math/rand", "take the number, or a source, as an argument"},
	{"crypto/rand", "take the number, or a source, as an argument"},
	{"syscall", "the shell around it talks to the system"},
	{"testing/synctest", "there is no time to fake in a pure package"},
	{"github.com/jackc/pgx", "take and return values; the shell around it talks to PostgreSQL"},
	{"github.com/nats-io", "take and return values; the shell around it talks to NATS"},
}

// Functions of package time that look at the clock or wait for it.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}

// Purity checks the pure packages; their tests may do what they like.
func Purity(s *Source) []Fault {
	if s.Go == nil || s.IsTest() || !slices.Contains(pure, s.Dir()) {
		return nil
	}
	var faults []Fault
	for _, spec := range s.Go.Imports {
		imported := importOf(spec)
		if dir, ok := projectDir(imported); ok && !slices.Contains(pure, dir) {
			faults = append(faults, s.fault(spec, "pure package %s imports %s, which is not pure; take an interface, or move what is pure of it", s.Dir(), dir))
		}
		for _, i := range impure {
			if below(imported, i.folder) {
				faults = append(faults, s.fault(spec, "pure package %s imports %s; %s", s.Dir(), imported, i.instead))
			}
		}
	}
	clockName := s.nameOf("time")
	if clockName == "." {
		faults = append(faults, s.fault(s.Go.Name, `pure package %s imports . "time"; import it by name`, s.Dir()))
	}
	ast.Inspect(s.Go, func(n ast.Node) bool {
		if text := impurity(n, clockName); text != "" {
			faults = append(faults, s.fault(n, "pure package %s %s", s.Dir(), text))
		}
		return true
	})
	return faults
}

// impurity says what is impure about a node; empty: nothing.
func impurity(n ast.Node, clockName string) string {
	const channels = "uses a channel; return a batch of values, which the shell around it sends"
	switch n := n.(type) {
	case *ast.GoStmt:
		return "starts a goroutine; the shell around it does"
	case *ast.ChanType, *ast.SendStmt, *ast.SelectStmt:
		return channels
	case *ast.UnaryExpr:
		if n.Op == token.ARROW {
			return channels
		}
	case *ast.SelectorExpr:
		if selects(n, clockName, clock...) {
			return "uses time." + n.Sel.Name + "; take the time as an argument"
		}
	}
	return ""
}

// selects reports whether the expression is one of the package's names.
func selects(e *ast.SelectorExpr, packageName string, names ...string) bool {
	x, ok := e.X.(*ast.Ident)
	return ok && packageName != "" && x.Name == packageName && slices.Contains(names, e.Sel.Name)
}
