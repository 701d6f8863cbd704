package dsn

import "testing"

func TestKindOf(t *testing.T) {
	for text, want := range map[string]Kind{
		"postgres://h/db": PostgreSQL, "postgresql://h/db": PostgreSQL, "host=h dbname=mysql": PostgreSQL, "": PostgreSQL, "${DSN}": PostgreSQL,
		"mysql://u@h/db": MySQL, "MariaDB://u@h/db": MySQL, "file:///var/lib/bank": Files,
	} {
		if got := KindOf(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
