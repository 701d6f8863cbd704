package subscribe

import (
	"fmt"

	"shardcdc/apply/files"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/dsn"
)

func isFolder(t *control.Target) bool {
	_, kind, _ := expand(t)
	return kind == dsn.Files
}

// checkFolder looks at the DSN of a folder only: the folder is on the machine where its worker runs, which may be another.
func checkFolder(about string, t *control.Target) []Finding {
	expanded, _, err := expand(t)
	if err != nil {
		return []Finding{FaultOf(about, err)}
	}
	o, err := files.ParseDSN(expanded)
	if err != nil {
		return []Finding{FaultOf(about, err)}
	}
	return []Finding{{
		Severity: Info, About: about,
		What: fmt.Sprintf("files in the format %s are written to %s on the machine where its worker runs; nobody looked whether that can be done", o.Format.Name, o.Folder),
	}}
}
