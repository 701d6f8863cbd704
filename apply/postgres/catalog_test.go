package postgres_test

import (
	"testing"

	"shardcdc/apply/postgres"
)

// TestLearned: what keeps rows apart on the target, and what fires at a change there.
func TestLearned(t *testing.T) {
	w := newWorld(t, 1)
	w.target.exec(`
		CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE DOMAIN positive AS numeric CHECK (value > 0); CREATE TYPE mood AS ENUM ('a', 'b');
		CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	w.open()
	for _, c := range []struct{ name, sql, want string }{
		{"none", "CREATE TABLE none (id int)", ""},
		{"keys", "CREATE TABLE keys (a int, b text, d positive, m mood, PRIMARY KEY (a, b), UNIQUE (d), UNIQUE (m) DEFERRABLE)", "(a,b)(d)(m)"},
		{"included", "CREATE TABLE included (a int, b jsonb, UNIQUE (a) INCLUDE (b)); CREATE INDEX ON included (b)", "(a)"},
		{"types", "CREATE TABLE types (a interval UNIQUE, b jsonb UNIQUE, c int[] UNIQUE, e text COLLATE nocase UNIQUE, f float8 UNIQUE)", "(?)(?)(?)(?)(f)"},
		{"collated", "CREATE TABLE collated (a text); CREATE UNIQUE INDEX ON collated (a COLLATE nocase)", "(?)"},
		{"inexact", "CREATE TABLE inexact (a int, b text, EXCLUDE USING btree (a WITH =)); CREATE UNIQUE INDEX ON inexact (lower(b)); CREATE UNIQUE INDEX ON inexact (b) WHERE a > 1", "(?)(?)(?)"},
		{"parts", "CREATE TABLE parts (a int PRIMARY KEY, b int) PARTITION BY RANGE (a); CREATE TABLE parts1 PARTITION OF parts DEFAULT; CREATE UNIQUE INDEX ON parts1 (b)", "(a)(?)"},
		{"off", "CREATE TABLE off (id int PRIMARY KEY); CREATE TRIGGER g AFTER INSERT ON off EXECUTE FUNCTION fires()", "(id)"},
		{"replica", "CREATE TABLE replica (id int); CREATE TRIGGER g AFTER INSERT ON replica EXECUTE FUNCTION fires(); ALTER TABLE replica ENABLE REPLICA TRIGGER g", "strict "},
		{"always", "CREATE TABLE always (id int); CREATE TRIGGER g BEFORE UPDATE ON always EXECUTE FUNCTION fires(); ALTER TABLE always ENABLE ALWAYS TRIGGER g", "strict "},
		{"rule", "CREATE TABLE rule (id int); CREATE RULE r AS ON DELETE TO rule DO INSTEAD NOTHING; ALTER TABLE rule ENABLE ALWAYS RULE r", "strict "},
		{"ruled", "CREATE TABLE ruled (id int); CREATE RULE r AS ON DELETE TO ruled DO INSTEAD NOTHING", ""},
		{"fired", "CREATE TABLE fired (a int) PARTITION BY RANGE (a); CREATE TABLE fired1 PARTITION OF fired DEFAULT; CREATE TRIGGER g AFTER INSERT ON fired1 FOR EACH ROW EXECUTE FUNCTION fires(); ALTER TABLE fired1 ENABLE ALWAYS TRIGGER g", "strict "},
		{"referred", "CREATE TABLE referred (id int PRIMARY KEY REFERENCES keys_of)", "strict (id)"},
	} {
		if c.name == "referred" {
			w.target.exec("CREATE TABLE keys_of (id int PRIMARY KEY)")
		}
		w.target.exec(c.sql)
		if c.name == "referred" {
			w.target.exec(`DO $$ DECLARE g name; BEGIN FOR g IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'referred'::regclass LOOP
				EXECUTE format('ALTER TABLE referred ENABLE ALWAYS TRIGGER %I', g); END LOOP; END $$`)
		}
		got, err := postgres.Learned(t.Context(), w.session, "public", c.name)
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}
