package postgres_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
	"shardcdc/pipeline"
)

// TestGatherAgrees: the same random changes, one by one on one target and gathered on others, leave all of them as they leave the
// source. Every type is a column, and where it has an order the key. What gathered changes are refused with by a target goes
// one by one then, as the worker does it.
func TestGatherAgrees(t *testing.T) {
	a := newAgreement(t)
	for round := range 3 {
		a.change(round)
		txs := a.w.capture()
		for _, target := range a.targets {
			rest := txs
			for len(rest) > 0 {
				n := 1 + a.r.IntN(min(len(rest), 60))
				target.apply(t, rest[:n])
				rest = rest[n:]
			}
		}
		a.compare(round)
	}
	a.w.proves(a.tables...)
	for _, target := range a.targets {
		t.Logf("%s: %d groups, %d refused at first", target.name, target.groups, target.refused)
		if 3*target.refused > target.groups {
			t.Errorf("seed %d, %s: %d of %d groups were refused, and prove nothing", *seed, target.name, target.refused, target.groups)
		}
	}
}

// agreement is targets that follow one source in different ways.
type agreement struct {
	w       *world // the first one's
	r       *rand.Rand
	targets []*agreeing
	tables  []string
	ops     map[string]func(round int) string // a random change of a table
}

type agreeing struct {
	*world
	name            string
	from, upTo      int // see postgres.Sets
	groups, refused int
}

func newAgreement(t *testing.T) *agreement {
	t.Logf("seed %d (repeat with -seed)", *seed)
	a := &agreement{w: newWorld(t, 1), r: rand.New(rand.NewPCG(*seed, 1)), ops: map[string]func(int) string{}}
	a.w.careful = true
	a.targets = []*agreeing{{world: a.w, name: "one by one"}}
	for _, v := range []agreeing{{name: "gathered", from: 12, upTo: 1000}, {name: "all sets", from: 1, upTo: 3}} {
		d := newDatabase(t, a.w.target.name+fmt.Sprint(v.from))
		v.world = &world{t: t, shards: a.w.shards, target: d, cfg: postgres.Config{DSN: server.DSNFor(d.name), Subscription: "s", Shards: 1}}
		opens, err := postgres.New(v.cfg) // it knows the tables that it found to be ordered
		if err != nil {
			t.Fatal(err)
		}
		v.opens = opens
		a.targets = append(a.targets, &v)
	}
	a.ddl(typesDDL)
	for i, typ := range types {
		a.typeTables(i, typ.typ, typ.values)
	}
	for _, name := range slices.Sorted(maps.Keys(agreeingShapes)) {
		a.shape(name, agreeingShapes[name])
	}
	for _, target := range a.targets {
		target.target.exec(`CREATE TABLE seen (n serial, what text);
			CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				INSERT INTO public.seen (what) SELECT concat(TG_OP, OLD.id, '>', NEW.id, '=', NEW.v, (SELECT count(*) FROM public.plain)); RETURN NULL; END $$;
			CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON watched FOR EACH ROW EXECUTE FUNCTION see(); ALTER TABLE watched ENABLE REPLICA TRIGGER t`)
	}
	return a
}

func (a *agreement) ddl(sql string) {
	a.w.source(sql)
	for _, target := range a.targets {
		target.target.exec(sql)
	}
}

const agreeingIDs = 25

func (a *agreement) id() int { return 1 + a.r.IntN(agreeingIDs) }

// typeTables makes a table with a column of the type, and one with a key of it.
func (a *agreement) typeTables(i int, typ string, values []string) {
	short := strings.NewReplacer("3000000", "300", "1048576", "300", "5000", "50") // for an index
	long := strings.NewReplacer("3000000", "30000", "1048576", "30000")
	value := func(key bool) string {
		n := len(values)
		if !key && !strings.HasPrefix(typ, "d1") {
			n++
		}
		switch n = a.r.IntN(n); {
		case n == len(values), strings.HasPrefix(values[n], "ROW(NULL") && !key:
			return "NULL"
		case key:
			return "(" + short.Replace(values[n]) + ")::" + typ
		}
		return "(" + long.Replace(values[n]) + ")::" + typ
	}
	table := fmt.Sprintf("v%d", i)
	identity := []string{"DEFAULT", "FULL"}[a.r.IntN(2)]
	a.ddl(fmt.Sprintf("CREATE TABLE %s (id int PRIMARY KEY, n int, v %s); ALTER TABLE %[1]s REPLICA IDENTITY %[3]s", table, typ, identity))
	a.tables = append(a.tables, table)
	a.ops[table] = func(int) string {
		switch a.r.IntN(7) {
		case 0, 1, 2:
			return fmt.Sprintf("INSERT INTO %s VALUES (%d, 0, %s) ON CONFLICT DO NOTHING", table, a.id(), value(false))
		case 3:
			return fmt.Sprintf("UPDATE %s SET v = %s WHERE id = %d", table, value(false), a.id())
		case 4:
			return fmt.Sprintf("UPDATE %s SET n = n + 1 WHERE id < %d", table, a.id())
		case 5:
			return fmt.Sprintf("UPDATE %s SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM %[1]s WHERE id = %[2]d)", table, a.id(), a.id())
		}
		return fmt.Sprintf("DELETE FROM %s WHERE id = %d", table, a.id())
	}
	key := fmt.Sprintf("k%d", i)
	if _, err := a.w.shards[0].conn.Exec(a.w.t.Context(), fmt.Sprintf(`SELECT %s < %[1]s; CREATE TABLE %s (k %s, s int, n int, PRIMARY KEY (k, s))`, value(true), key, typ)).ReadAll(); err != nil {
		return // it has no order
	}
	for _, target := range a.targets {
		target.target.exec(fmt.Sprintf("CREATE TABLE %s (k %s, s int, n int, PRIMARY KEY (k, s))", key, typ))
	}
	a.tables = append(a.tables, key)
	a.ops[key] = func(int) string { // each s is there once
		switch a.r.IntN(6) {
		case 0, 1, 2:
			return fmt.Sprintf("INSERT INTO %s SELECT %s, %d, 0 WHERE NOT EXISTS (SELECT FROM %[1]s WHERE s = %[3]d)", key, value(true), a.id())
		case 3:
			return fmt.Sprintf("UPDATE %s SET n = n + 1 WHERE s < %d", key, a.id())
		case 4:
			return fmt.Sprintf("UPDATE %s SET k = %s WHERE s = %d", key, value(true), a.id())
		}
		return fmt.Sprintf("DELETE FROM %s WHERE s = %d", key, a.id())
	}
}

// agreeingShapes are ways to make a table of id, u, v and big.
var agreeingShapes = map[string]string{
	"plain":     "CREATE TABLE plain (id int PRIMARY KEY, u int, v text, big text)",
	"swaps":     "CREATE TABLE swaps (id int PRIMARY KEY, u int UNIQUE, v text, big text)",
	"whole":     "CREATE TABLE whole (id int PRIMARY KEY, u int UNIQUE, v text, big text); ALTER TABLE whole REPLICA IDENTITY FULL",
	"keyless":   "CREATE TABLE keyless (id int, u int, v text, big text); ALTER TABLE keyless REPLICA IDENTITY FULL",
	"by_other":  "CREATE TABLE by_other (id int PRIMARY KEY, u int NOT NULL UNIQUE, v text, big text); ALTER TABLE by_other REPLICA IDENTITY USING INDEX by_other_u_key",
	"limits":    `CREATE TABLE limits (id int PRIMARY KEY, u numeric(12,3), v varchar(60), big text, c char(9) GENERATED ALWAYS AS (left(v, 9)) STORED)`,
	"always":    "CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, u int, v text, big text)",
	"bydefault": "CREATE TABLE bydefault (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, u int, v text, big text, z int DEFAULT 7)",
	"parts": `CREATE TABLE parts (id int, u int, v text, big text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
		CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (9); CREATE TABLE parts2 (big text, v text, u int, id int NOT NULL); ALTER TABLE parts ATTACH PARTITION parts2 DEFAULT`,
	"watched": "CREATE TABLE watched (id int PRIMARY KEY, u int, v text, big text)",
}

func (a *agreement) shape(name, ddl string) {
	a.ddl(ddl + "; ALTER TABLE " + name + " ALTER big SET STORAGE EXTERNAL")
	a.tables = append(a.tables, name)
	serial := 0
	overriding := ""
	if name == "always" {
		overriding = "OVERRIDING SYSTEM VALUE"
	}
	texts := []string{`''`, `'\N'`, `'\.'`, `E'a\tb\nc\rd\\'`, `E'\\'`, "'größe 日本 '", `E'\u0001\x7f'`, "'{\"a,b}'", "NULL", "'NULL'", "' x  '"}
	a.ops[name] = func(round int) string {
		serial++
		text := texts[a.r.IntN(len(texts))]
		kind := a.r.IntN(9)
		if kind == 5 && name == "always" {
			kind = 6 // nobody can change it
		}
		switch kind {
		case 0, 1, 2:
			return fmt.Sprintf("INSERT INTO %s (id, u, v, big) %s SELECT %d, %d, %s, repeat('%[4]d ', %[6]d) WHERE NOT EXISTS (SELECT FROM %[1]s WHERE id = %[3]d)",
				name, overriding, a.id(), serial, text, a.r.IntN(800))
		case 3:
			return fmt.Sprintf("UPDATE %s SET v = %s WHERE id = %d", name, text, a.id())
		case 4:
			return fmt.Sprintf("UPDATE %s SET big = repeat('%d', %d), v = %s WHERE id = %d", name, serial, a.r.IntN(2000), text, a.id())
		case 5:
			return fmt.Sprintf("UPDATE %s SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM %[1]s WHERE id = %[2]d)", name, a.id(), a.id())
		case 6:
			return fmt.Sprintf("DELETE FROM %s WHERE id = %d", name, a.id())
		case 7:
			return fmt.Sprintf(`DO $$ DECLARE x int; y int; BEGIN SELECT u INTO x FROM %[1]s WHERE id = %[2]d; SELECT u INTO y FROM %[1]s WHERE id = %[3]d;
				IF x <> y THEN UPDATE %[1]s SET u = -%[4]d WHERE id = %[2]d; UPDATE %[1]s SET u = x WHERE id = %[3]d; UPDATE %[1]s SET u = y WHERE id = %[2]d; END IF; END $$`,
				name, a.id(), a.id(), serial)
		}
		return fmt.Sprintf("UPDATE %s SET v = 'all %d' WHERE id > %d", name, serial, a.id())
	}
}

// change does random changes in random transactions.
func (a *agreement) change(round int) {
	var sql strings.Builder
	open := false
	for n := range 40 * len(a.tables) {
		if !open {
			sql.WriteString("BEGIN;\n")
			open = true
		}
		table := a.tables[n%len(a.tables)]
		sql.WriteString(a.ops[table](round) + ";\n")
		if a.r.IntN(30) == 0 {
			sql.WriteString("COMMIT;\n")
			open = false
		}
	}
	if open {
		sql.WriteString("COMMIT")
	}
	a.w.source(sql.String())
}

// apply is what a worker does: a refused group is tried again, one by one.
func (g *agreeing) apply(t *testing.T, txs []*pipeline.Transaction) {
	t.Helper()
	careful := g.careful
	if g.from > 0 {
		defer postgres.Sets(g.from, g.upTo)()
	}
	g.groups++
	err := g.try(txs)
	var blocked *apply.Blocked
	if !careful && errors.As(err, &blocked) {
		g.refused++
		g.careful = true
		err = g.try(txs)
		g.careful = false
	}
	if err != nil {
		t.Fatalf("seed %d, %s: %v", *seed, g.name, err)
	}
}

// compare compares every target with the source, and what triggers saw.
func (a *agreement) compare(round int) {
	t := a.w.t
	t.Helper()
	for _, target := range a.targets {
		for _, table := range a.tables {
			sql := "SELECT r FROM (SELECT t::text FROM " + table + " t) x(r) ORDER BY r COLLATE \"C\""
			if got, want := target.target.rows(sql), a.w.shards[0].rows(sql); got != want {
				t.Errorf("seed %d, round %d, %s: table %s differs:\ntarget:\n%.1000s\nsource:\n%.1000s", *seed, round, target.name, table, got, want)
			}
		}
		if got, want := target.target.rows("SELECT what FROM seen ORDER BY n"), a.w.target.rows("SELECT what FROM seen ORDER BY n"); got != want {
			t.Errorf("seed %d, round %d, %s: the trigger saw\n%.1000s\nwant\n%.1000s", *seed, round, target.name, got, want)
		}
	}
}
