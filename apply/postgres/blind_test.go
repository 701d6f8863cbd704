package postgres_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
	"shardcdc/apply/schedule"
)

// blind is a target of which nothing is known that groups touch: as if every index were made after it was looked for.
type blind struct{ apply.Target }

func (b *blind) Open(ctx context.Context) (apply.Session, error) {
	s, err := b.Target.Open(ctx)
	return &blindSession{s}, err
}

type blindSession struct{ apply.Session }

func (s *blindSession) Touches(ctx context.Context, g *apply.Group, keys []schedule.Key) ([]schedule.Key, bool) {
	_, alone := s.Session.Touches(ctx, g, nil)
	return keys, alone
}

const blindState = `SELECT (SELECT coalesce(max(n), 0) FROM log) n, (SELECT count(*) FROM log),
	(SELECT string_agg(k::text, ' ' ORDER BY id) FROM keyed k), (SELECT string_agg(k::text, ' ' ORDER BY id) FROM whole k),
	(SELECT string_agg(k::text, ' ' ORDER BY v, w) FROM loose k), (SELECT string_agg(k::text, ' ' ORDER BY id, p) FROM parts k)`

// blindChange is some change of few rows, so that most transactions meet others.
func blindChange(r *rand.Rand, rows int) string {
	id, to, name := r.IntN(rows), r.IntN(rows), r.IntN(rows+1)
	keyed := func(table string) string {
		return [...]string{
			fmt.Sprintf("INSERT INTO %s VALUES (%d, 'n%d') ON CONFLICT DO NOTHING;", table, id, name),
			fmt.Sprintf("DELETE FROM %s WHERE id = %d;", table, id),
			fmt.Sprintf("DELETE FROM %s WHERE name = 'n%d';", table, name),
			fmt.Sprintf("UPDATE %[1]s SET name = 'n%[2]d' WHERE id = %[3]d AND NOT EXISTS (SELECT FROM %[1]s WHERE name = 'n%[2]d');", table, name, id),
			fmt.Sprintf("UPDATE %s SET name = name WHERE id = %d;", table, id),
			fmt.Sprintf("UPDATE %[1]s SET id = %[2]d WHERE id = %[3]d AND NOT EXISTS (SELECT FROM %[1]s WHERE id = %[2]d);", table, to, id),
			fmt.Sprintf("DELETE FROM %s WHERE id = %d; INSERT INTO %[1]s VALUES (%[2]d, 'n%[3]d') ON CONFLICT DO NOTHING;", table, id, name),
		}[r.IntN(7)]
	}
	switch r.IntN(4) {
	case 0:
		return keyed("keyed")
	case 1:
		return keyed("whole")
	case 2:
		one := fmt.Sprintf("ctid = (SELECT ctid FROM loose WHERE v IS NOT DISTINCT FROM nullif(%d, 0) LIMIT 1)", r.IntN(3))
		return [...]string{
			fmt.Sprintf("INSERT INTO loose VALUES (nullif(%d, 0), NULL);", r.IntN(3)),
			"DELETE FROM loose WHERE " + one + ";",
			fmt.Sprintf("UPDATE loose SET v = nullif(%d, 0) WHERE %s;", r.IntN(3), one),
		}[r.IntN(3)]
	default:
		return [...]string{
			fmt.Sprintf("INSERT INTO parts VALUES (%d, %d, %d) ON CONFLICT DO NOTHING;", id, r.IntN(2), name),
			fmt.Sprintf("UPDATE parts SET v = v + 1 WHERE id = %d;", id),
			fmt.Sprintf("UPDATE parts AS x SET p = 1 - p WHERE id = %d AND NOT EXISTS (SELECT FROM parts y WHERE y.id = x.id AND y.p <> x.p);", id),
			fmt.Sprintf("DELETE FROM parts WHERE id = %d AND p = %d;", id, r.IntN(2)),
		}[r.IntN(4)]
	}
}

// TestBlind: groups that meet and run together all the same, because nothing is known of what they touch, cost time, and nothing else:
// every snapshot of the target is one that the source had. One by one, and in statements for many rows.
func TestBlind(t *testing.T) {
	t.Run("few", func(t *testing.T) { testBlind(t, 4, 3, 1) })
	t.Run("many", func(t *testing.T) { testBlind(t, 80, 40, 3) })
}

func testBlind(t *testing.T, rows, changes, units int) {
	t.Logf("seed %d (repeat with -seed)", *seed)
	const transactions = 150
	r := rand.New(rand.NewPCG(*seed, 11))
	w := newWorld(t, 1)
	w.both(`CREATE TABLE log (n int PRIMARY KEY); CREATE TABLE keyed (id int PRIMARY KEY, name text UNIQUE);
		CREATE TABLE whole (id int PRIMARY KEY, name text UNIQUE); ALTER TABLE whole REPLICA IDENTITY FULL;
		CREATE TABLE loose (v int, w int); ALTER TABLE loose REPLICA IDENTITY FULL;
		CREATE TABLE parts (id int, p int, v int, PRIMARY KEY (id, p)) PARTITION BY LIST (p);
		CREATE TABLE parts0 PARTITION OF parts FOR VALUES IN (0); CREATE TABLE parts1 PARTITION OF parts FOR VALUES IN (1)`)
	open := w.gate()
	states := []string{w.shards[0].rows(blindState)}
	for n := 1; n <= transactions; n++ {
		sql := fmt.Sprintf("BEGIN; INSERT INTO log VALUES (%d);", n)
		for range 1 + r.IntN(changes) {
			sql += blindChange(r, rows)
		}
		w.source(sql + "COMMIT")
		states = append(states, w.shards[0].rows(blindState))
	}
	target, err := postgres.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.target.exec("ALTER SYSTEM SET deadlock_timeout = '20ms'")
	w.target.exec("SELECT pg_reload_conf()")
	defer w.target.exec("SELECT pg_reload_conf()")
	defer w.target.exec("ALTER SYSTEM RESET deadlock_timeout")
	source := newBacklog(w.capture())
	fl := w.follow(t, nil, apply.Config{Source: source, GroupUnits: units + r.IntN(2), Target: &blind{target}})
	open(source)
	last, lanes := -1, 0
	for last < transactions {
		last = w.look(blindState, states, last)
		lanes = max(lanes, w.count(inTransaction))
	}
	fl.until(w.csn)
	w.same("keyed", "whole", "loose", "parts", "log")
	if lanes < 2 {
		t.Error("nothing ran together: it proves nothing")
	}
	errs := map[string]int{}
	for len(fl.states) > 0 {
		if s := <-fl.states; s.Err != "" {
			errs[s.Err]++
		}
	}
	t.Logf("at most %d lanes busy; %d errors: %.1500s", lanes, len(errs), fmt.Sprint(errs))
}
