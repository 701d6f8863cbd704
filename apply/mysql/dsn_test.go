package mysql_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shardcdc/apply/mysql"
)

func TestParseDSN(t *testing.T) {
	passfile := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(passfile, []byte("p@ss:w/rd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ text, want, err string }{
		{"mysql://u@h/d", "u::h:3306/d preferred", ""},
		{"mariadb://u:p%40%2F@[::1]:3307/d?tls=false", "u:p@/:[::1]:3307/d false", ""},
		{"mysql://u@h/d?passfile=" + passfile, "u:p@ss:w/rd:h:3306/d preferred", ""},
		{"mysql://u@h/d?passfile=/nowhere", "", "passfile: open /nowhere"},
		{"mysql://u@h/d?tls-ca=" + passfile, "", "holds no certificate"},
		{"mysql://u:secret@h/d?tls=maybe&x=1", "", `tls is "maybe"`},
		{"mysql://u:secret@h/d?x=1", "", `the option "x" is not known`},
		{"mysql://u:secret@h", "", "has no database. Try: mysql://user@host:3306/database"},
		{"mysql://u:secret@/d", "", "has no host"},
		{"mysql://h/d", "", "has no user"},
		{"mysql://u:sec%ret@h/d", "", "is no URL"},
		{"mysql://u:sec@secret@h/d?x=1", "", `the option "x" is not known`},
		{"mysql://u:secret@h/d?tls=true&tls=false", "", `the option "tls" is given twice`},
		{"mysql://u:secret@h/d#x", "", "has a # in it; write %23"},
		{"mysql://u@h/d?passwd=secret", "", `the option "passwd" is not known`},
		{"u:secret@tcp(h:3306)/d?x=1", "", "does not begin with mysql://"},
		{"postgres://u:secret@h/d", "", "does not begin with mysql://"},
		{"mysql:u:secret@h/d", "", "does not begin with mysql://"},
	} {
		got, err := mysql.ParseDSN(c.text)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %v, want %s", c.text, err, c.err)
			}
			if failed := mysql.CheckDSN(c.text); (failed == nil) != strings.Contains(c.text, "/nowhere") && !strings.Contains(c.text, "tls-ca") {
				t.Errorf("%s: without the files: %v", c.text, failed)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
		} else if text := got.User + ":" + got.Passwd + ":" + got.Addr + "/" + got.DBName + " " + got.TLSConfig; text != c.want {
			t.Errorf("%s: %s, want %s", c.text, text, c.want)
		}
	}
}
