package dsn_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline/dsn"
)

func environment(name string) (string, bool) {
	v, ok := map[string]string{
		"PW":    `a/b@c:d?e&f=g%20 h'i\j#k"${PW}+`,
		"HOSTS": "h1:5433,h2:5434",
		"DB":    "my db/1",
		"DSN":   "postgres://u:secret@h/d",
		"EMPTY": "",
	}[name]
	return v, ok
}

// TestExpandedValuesArriveAsTheyAre asks pgx what it makes of the expanded DSN.
func TestExpandedValuesArriveAsTheyAre(t *testing.T) {
	pw, _ := environment("PW")
	for _, in := range []string{
		"postgres://u:${PW}@${HOSTS}/${DB}",
		"postgresql://u:${PW}@h1:5433/${DB}?application_name=x",
		"postgres://u@h1:5433/${DB}?password=${PW}",
		"host=h1 port=5433 user=u password=${PW} dbname='${DB}'",
		"host=h1 port=5433 user=u password='${PW}' dbname=${DB}",
	} {
		out, err := dsn.Expand(in, environment)
		if err != nil {
			t.Fatal(err)
		}
		config, err := pgconn.ParseConfig(out)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if config.Password != pw || config.Database != "my db/1" || config.Host != "h1" || config.Port != 5433 || config.User != "u" {
			t.Errorf("%s: password %q database %q host %q port %d", in, config.Password, config.Database, config.Host, config.Port)
		}
		if got := dsn.Scrub("it said: "+out+" and "+pw+" and more", out); strings.Contains(got, pw) || strings.Contains(got, "a/b") || strings.Contains(got, "a%2Fb") {
			t.Errorf("%s: scrubbed text still says %s", in, got)
		}
	}
}

func TestExpand(t *testing.T) {
	for _, test := range []struct{ in, want, err string }{
		{"host=h", "host=h", ""},
		{"${DSN}", "postgres://u:secret@h/d", ""},
		{"${DSN}?application_name=${DB}", "postgres://u:secret@h/d?application_name=my%20db%2F1", ""},
		{"host=h password=${EMPTY}", "host=h password=", ""},
		{"host=h password=a$b", "host=h password=a$b", ""},
		{"postgres://u:${NOPE}@h/d", "", "refers to ${NOPE}, which is not set. Try: set the environment variable NOPE"},
		{"postgres://u:sec-${NOPE}@h/d", "", `DSN "postgres://u:xxxxx@h/d" refers to ${NOPE}`},
		{"host=h password=${PW", "", "Try: ${NAME}"},
		{"host=h password=${}", "", "Try: ${NAME}"},
		{"host=h password=${1}", "", "Try: ${NAME}"},
	} {
		got, err := dsn.Expand(test.in, environment)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: error %v, want %q", test.in, err, test.err)
			}
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("%s: %q %v, want %q", test.in, got, err, test.want)
		}
	}
}

func TestRedact(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"", ""},
		{"postgres://h/d", "postgres://h/d"},
		{"postgres://u@h/d", "postgres://u@h/d"},
		{"postgres://u:@h/d", "postgres://u:@h/d"},
		{"postgres://u:p@h/d", "postgres://u:xxxxx@h/d"},
		{"postgresql://u:p:q@h:1,i:2/d?sslmode=disable", "postgresql://u:xxxxx@h:1,i:2/d?sslmode=disable"},
		{"postgres://u:${PW}@h/d", "postgres://u:${PW}@h/d"},
		{"postgres://u:x${PW}@h/d", "postgres://u:xxxxx@h/d"},
		{"postgres://h:5432/d?application_name=a@b", "postgres://h:5432/d?application_name=a@b"},
		{"postgres://[::1]:5432/d?application_name=a@b", "postgres://[::1]:5432/d?application_name=a@b"},
		{"postgres://u@h/d?password=p&x=y", "postgres://u@h/d?password=xxxxx&x=y"},
		{"postgres://u@h/d?x=y&pass%77ord=p", "postgres://u@h/d?x=y&pass%77ord=xxxxx"},
		{"postgres://u@h/d?sslpassword=p", "postgres://u@h/d?sslpassword=xxxxx"},
		{"postgres://u:p/q@h/d", "postgres://u:xxxxx@h/d"},
		{"postgres://u:p/q?r@h/d", "postgres://u:xxxxx@h/d"},
		{"postgres://u:12/q@h/d", "postgres://u:xxxxx@h/d"},
		{"host=h password=p", "host=h password=xxxxx"},
		{"host=h password = 'p q' user=u", "host=h password = 'xxxxx' user=u"},
		{`host=h PASSWORD='p\' q' user=u`, `host=h PASSWORD='xxxxx' user=u`},
		{`password=p\ q user=u`, `password=xxxxx user=u`},
		{"password='never closed user=u", "password='xxxxx"},
		{"password=${PW} user=u", "password=${PW} user=u"},
		{"rubbish password=p", "rubbish password=xxxxx"},
		{"mysql://u:p@q@h/d", "mysql://u:xxxxx@h/d"},
		{"mysql://u:p@q@h", "mysql://u:xxxxx@h"},
		{"mysql://u:p@h/d?tls-ca=a@b", "mysql://u:xxxxx@h/d?tls-ca=a@b"},
		{"mysql://u@h/d?passwd=p&pwd=q", "mysql://u@h/d?passwd=xxxxx&pwd=xxxxx"},
		{"u:p=q@tcp(h:3306)/d?x=y", "u:xxxxx@tcp(h:3306)/d?x=y"},
		{"MySQL://u:p@h/d", "MySQL:xxxxx@h/d"},
		{"mysql:u:p@h/d", "mysql:xxxxx@h/d"},
		{"host=h application_name=a:b@c", "host=h application_name=a:b@c"},
		{"file:///var/lib/a@b", "file:///var/lib/a@b"},
	} {
		if got := dsn.Redact(test.in); got != test.want {
			t.Errorf("%s became %s, want %s", test.in, got, test.want)
		}
		if got, want := dsn.HasPassword(test.in), strings.Contains(test.want, dsn.Mask); got != want {
			t.Errorf("%s: HasPassword says %v", test.in, got)
		}
	}
}
