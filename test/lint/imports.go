package lint

import (
	"slices"
	"strings"
)

// Stages never import each other.
var stages = []string{"dumper", "joiner", "output", "apply"}

// Pure packages are values with methods: no clock, context, lock, goroutine, file or network. Of output the folder itself
// is pure (what an encoder is), and the encoders below it are; the publisher is not.
var pure = []string{
	"pipeline", "pipeline/wire", "pipeline/mark", "pipeline/format", "pipeline/pgtype", "pipeline/pattern", "pipeline/shape", "pipeline/moves", "pipeline/mysql", "dumper/pgoutput", "dumper/copier/fold", "joiner/gid", "joiner/merge", "output", "output/json", "output/debezium", "output/sql", "apply/schedule", "apply/postgres/ddl", "apply/postgres/net",
}

// wiring may know several stages.
var wiring = []string{"pipeline/node", "pipeline/copying", "pipeline/subscribe", "cmd", "test"}

// Names that say nothing about what is inside; internal is closed to its cousins by Go's own rule.
var emptyNames = []string{"util", "utils", "common", "manager", "helper", "helpers", "misc", "internal"}

// Imports checks who imports whom.
func Imports(s *Source) []Fault {
	if s.Go == nil {
		return nil
	}
	var faults []Fault
	for _, part := range strings.Split(s.Dir(), "/") {
		if slices.Contains(emptyNames, part) {
			faults = append(faults, s.fault(s.Go.Name, "the folder name %q says nothing (or, for internal, closes it to its cousins); name the folder by a noun of the domain", part))
		}
	}
	for _, spec := range s.Go.Imports {
		to, ok := projectDir(importOf(spec))
		if !ok {
			continue
		}
		if text := forbidden(s.Dir(), to); text != "" {
			faults = append(faults, s.fault(spec, "%s imports %s: %s", s.Dir(), to, text))
		}
	}
	return faults
}

// forbidden says why a package in the folder from may not import the one in the folder to; empty: it may.
func forbidden(from, to string) string {
	switch {
	case from == "pipeline":
		return "pipeline is the vocabulary, a leaf; move the shared type into it, or the code out of it"
	case below(to, "cmd") && !below(from, "cmd"):
		return "nobody outside cmd imports cmd; move what is shared into the package that it is about"
	case below(to, "test") && !below(from, "test"):
		return "only test imports test; a package's own fakes live beside it"
	case stageOf(from) != "" && stageOf(to) != "" && stageOf(from) != stageOf(to):
		return "stages never import each other; put the common type into pipeline, and let pipeline/node wire them"
	case stageOf(from) != "" && below(to, "pipeline/node"):
		return "a stage does not know who runs it; take an interface of your own, which pipeline/node fulfils"
	}
	return ""
}

func stageOf(dir string) string {
	for _, stage := range stages {
		if below(dir, stage) {
			return stage
		}
	}
	return ""
}

// projectDir returns the folder of an import path of this module.
func projectDir(importPath string) (dir string, ok bool) {
	if importPath == Module {
		return ".", true
	}
	return strings.CutPrefix(importPath, Module+"/")
}

// Wired checks that no package outside of the wiring knows two stages, in one file or in several.
func Wired(sources []*Source) []Fault {
	known := make(map[string]string) // Package folder to the stage that it knows.
	var faults []Fault
	for _, s := range sources {
		if s.Go == nil || below(s.Dir(), wiring...) || stageOf(s.Dir()) != "" {
			continue
		}
		for _, spec := range s.Go.Imports {
			to, ok := projectDir(importOf(spec))
			stage := stageOf(to)
			if !ok || stage == "" {
				continue
			}
			if first, found := known[s.Dir()]; found && first != stage {
				faults = append(faults, s.fault(spec, "package %s knows two stages, %s and %s; only pipeline/node, pipeline/subscribe and cmd wire stages together", s.Dir(), first, stage))
			}
			known[s.Dir()] = stage
		}
	}
	return faults
}
