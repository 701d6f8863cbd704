// Package lint holds the rules of this repository that the compiler does not know: who may import whom, which
// packages are pure, how long a file and a function may be, where a sleep is allowed, and which words stay outside.
//
// A rule is a function from a parsed file to its faults; a fault says where, what, and what to do instead. The tests run
// every rule over the whole repository, and show for each that it can fail. There is no linter's configuration to
// disable a rule: an exception is a line in an allow list, with its reason.
package lint

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Module is the import path of the repository's root.
const Module = "shardcdc"

// A Source is one file of the repository.
type Source struct {
	Path string // From the root, with slashes.
	Text []byte
	Go   *ast.File // nil when it is not Go.
	set  *token.FileSet
}

// A Fault is a place that breaks a rule.
type Fault struct {
	Path string
	Line int
	Text string
}

func (f Fault) String() string { return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.Text) }

// Parse reads one file; a path that ends with .go must hold Go.
func Parse(name string, text []byte) (*Source, error) {
	s := &Source{Path: name, Text: text, set: token.NewFileSet()}
	if !strings.HasSuffix(name, ".go") {
		return s, nil
	}
	var err error
	s.Go, err = parser.ParseFile(s.set, name, text, parser.ParseComments|parser.SkipObjectResolution)
	return s, err
}

// Load reads the repository: every text file that a reader of it would see.
func Load(root string) ([]*Source, error) {
	var sources []*Source
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name == ".git" || name == ".cache" || name == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path.Join(root, name))
		if err != nil || bytes.IndexByte(text, 0) >= 0 { // Binary.
			return err
		}
		s, err := Parse(name, text)
		if err != nil {
			return err
		}
		sources = append(sources, s)
		return nil
	})
	return sources, err
}

// Dir is the package's folder.
func (s *Source) Dir() string { return path.Dir(s.Path) }

// IsTest reports whether only tests see the file.
func (s *Source) IsTest() bool { return strings.HasSuffix(s.Path, "_test.go") }

func (s *Source) fault(at ast.Node, format string, args ...any) Fault {
	return Fault{Path: s.Path, Line: s.set.Position(at.Pos()).Line, Text: fmt.Sprintf(format, args...)}
}

// nameOf returns the name by which the file calls an imported package, or "" when it does not import it.
func (s *Source) nameOf(importPath string) string {
	for _, spec := range s.Go.Imports {
		if importOf(spec) != importPath {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(importPath)
	}
	return ""
}

func importOf(spec *ast.ImportSpec) string { return strings.Trim(spec.Path.Value, "`\"") }

// below reports whether dir is one of the folders or inside one.
func below(dir string, folders ...string) bool {
	for _, f := range folders {
		if dir == f || strings.HasPrefix(dir, f+"/") {
			return true
		}
	}
	return false
}
