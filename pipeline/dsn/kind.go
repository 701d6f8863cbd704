package dsn

import "strings"

// Kind is what a DSN leads to.
type Kind string

const (
	PostgreSQL Kind = "postgresql"
	MySQL      Kind = "mysql" // and MariaDB: mysql://user@host:3306/database?option=value
	Files      Kind = "files" // a folder of this machine: file:///var/lib/bank?option=value
)

// KindOf tells kinds apart by the scheme; a DSN without one of its own is PostgreSQL's.
func KindOf(dsn string) Kind {
	switch scheme, _, _ := strings.Cut(dsn, ":"); strings.ToLower(scheme) {
	case "mysql", "mariadb":
		return MySQL
	case "file":
		return Files
	}
	return PostgreSQL
}
