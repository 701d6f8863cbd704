package postgres_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// TestCopyErrors pins what a person reads when the target does not take a copied row: first where COPY was, and in the
// careful attempt the row.
func TestCopyErrors(t *testing.T) {
	for _, tc := range []struct{ name, target, first, careful, mend string }{
		{
			name: "check", target: "CREATE TABLE t (id int PRIMARY KEY, u text CONSTRAINT small CHECK (u <> 'x5'))",
			first:   `csn 2: table "public"."t": constraint "small": copy: ERROR: new row for relation "t" violates check constraint "small" (SQLSTATE 23514) (COPY t, line 5: "5	x5"). Try: drop`,
			careful: `csn 2: table "public"."t": row (id)=(5): constraint "small": read: ERROR: new row`, mend: "ALTER TABLE t DROP CONSTRAINT small",
		},
		{
			name: "narrow", target: "CREATE TABLE t (id int PRIMARY KEY, u varchar(2))",
			first:   `(COPY t, line 10, column u: "x10"). Try: make the target's column as wide`,
			careful: `row (id)=(10): read: ERROR: value too long`, mend: "ALTER TABLE t ALTER u TYPE text",
		},
		{
			name: "another unique index", target: "CREATE TABLE t (id int PRIMARY KEY, u text UNIQUE); INSERT INTO t VALUES (99, 'x7')",
			first:   `csn 2: table "public"."t": constraint "t_u_key": copy: ERROR: duplicate key value`,
			careful: `row (id)=(7): constraint "t_u_key": read: ERROR: duplicate key value`, mend: "DELETE FROM t",
		},
		{
			name: "swallowed", target: `CREATE TABLE t (id int PRIMARY KEY, u text); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.id = 3 THEN RETURN NULL; END IF; RETURN NEW; END';
				CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE t ENABLE ALWAYS TRIGGER tr`,
			first: `copy: 1 of 10 rows were swallowed on the target. Try: drop the trigger`, careful: `row (id)=(3): the read was swallowed`, mend: "DROP TRIGGER tr ON t",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.source("CREATE TABLE t (id int PRIMARY KEY, u text); INSERT INTO t SELECT g, 'x' || g FROM generate_series(1, 10) g")
			w.target.exec(tc.target)
			w.capture()
			w.csn = 0
			w.must(w.begin(mark.TargetMerge, copied("t")...))
			w.restart()
			chunk := []*pipeline.Transaction{w.chunk(0, copied("t")[0], "true")}
			for careful, want := range map[bool]string{false: tc.first, true: tc.careful} {
				w.careful = careful
				var blocked *apply.Blocked
				if err := w.try(chunk); !errors.As(err, &blocked) || !strings.Contains(err.Error(), want) || blocked.CSN != 2 {
					t.Fatalf("got  %v\nwant %s", err, want)
				}
			}
			w.target.exec(tc.mend)
			w.must(chunk...)
			w.same("t")
		})
	}
}

// TestCopyOtherKey: rows of the source that share a key of the target's own do not take each other's place.
func TestCopyOtherKey(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL); INSERT INTO t VALUES (1, 'same'), (2, 'same'), (3, 'other')")
	w.target.exec("CREATE TABLE t (id int NOT NULL, v text PRIMARY KEY)")
	w.capture()
	table := copied("t")[0]
	w.must(w.begin(mark.TargetMerge, table))
	refused := func(want string, tx *pipeline.Transaction) {
		t.Helper()
		var blocked *apply.Blocked
		if err := w.try([]*pipeline.Transaction{tx}); !errors.As(err, &blocked) || !strings.Contains(err.Error(), want) {
			t.Fatalf("got  %v\nwant %s", err, want)
		}
	}
	refused("is being copied by its key, and has none on the target", w.chunk(0, table, "id = 3"))
	w.source("DELETE FROM t WHERE id = 3")
	refused("is being copied by its key, and has none on the target", w.capture()[0])
	w.target.exec("ALTER TABLE t ADD UNIQUE (id)")
	w.must(w.chunk(0, table, "id = 1"))
	refused(`constraint "t_pkey"`, w.chunk(0, table, "id = 2"))
	w.target.exec("ALTER TABLE t DROP CONSTRAINT t_pkey")
	w.must(w.chunk(0, table, "id = 2"), w.end(table))
	w.same("t")
}

// TestCopyReplaces: a row from before whose identity nobody can update makes room for the copied one.
func TestCopyReplaces(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY, s int GENERATED ALWAYS AS IDENTITY, v text)")
	w.source("INSERT INTO t (id, v) VALUES (1, 'a'), (2, 'b'), (3, 'c')")
	w.target.exec("INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1, 77, 'stale'), (2, 78, 'stale'), (3, 79, 'stale')")
	w.capture()
	table := copied("t")[0]
	w.must(w.begin(mark.TargetMerge, table), w.chunk(0, table, "id = 1"))
	w.careful = true
	w.must(w.chunk(0, table, "id = 2"))
	w.careful = false
	w.source("DELETE FROM t WHERE id = 3; INSERT INTO t (id, v) VALUES (3, 'again')")
	w.must(append(w.capture(), w.end(table))...)
	w.same("t")
}

// TestCopyGuards: a column that nobody can update on the target is looked at, not passed over.
func TestCopyGuards(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY, s int, v int); INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)")
	w.target.exec("CREATE TABLE t (id int PRIMARY KEY, s int GENERATED ALWAYS AS IDENTITY, v int)")
	w.capture()
	table := copied("t")[0]
	w.must(w.begin(mark.TargetFail, table), w.chunk(0, table, "id = 1"))
	w.source("UPDATE t SET s = 9 WHERE id = 2; UPDATE t SET v = 9")
	w.replay()
	w.source("UPDATE t SET s = 8 WHERE id = 1")
	txs := w.capture()
	var blocked *apply.Blocked
	if err := w.try(txs); !errors.As(err, &blocked) || blocked.Row != "(id)=(1)" || !strings.Contains(err.Error(), `the source changed "s", which is GENERATED ALWAYS AS IDENTITY`) {
		t.Fatalf("got %v", err)
	}
	w.target.exec("ALTER TABLE t ALTER s SET GENERATED BY DEFAULT")
	w.must(append(txs, w.chunk(0, table, "true"), w.end(table))...)
	w.same("t")
}

// TestCopyPermission: a role that may not keep track of copies, or not make temporary tables, is told what to grant.
func TestCopyPermission(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	w.open()
	w.restart()
	w.capture()
	w.target.exec(`CREATE ROLE copyist LOGIN; GRANT SET ON PARAMETER session_replication_role TO copyist; GRANT ALL ON t TO copyist;
		GRANT USAGE ON SCHEMA cdc TO copyist; GRANT ALL ON ALL TABLES IN SCHEMA cdc TO copyist; REVOKE ALL ON cdc.copying FROM copyist; REVOKE TEMPORARY ON DATABASE ` + w.target.name + " FROM PUBLIC")
	w.cfg.DSN = strings.Replace(server.DSNFor(w.target.name), "postgres@", "copyist@", 1)
	txs := []*pipeline.Transaction{w.begin(mark.TargetMerge, copied("t")...), w.chunk(0, copied("t")[0], "true")}
	for _, step := range []struct{ want, grant string }{
		{`GRANT SELECT, INSERT, UPDATE, DELETE ON cdc.copying TO "copyist"`, "GRANT SELECT, INSERT, UPDATE, DELETE ON cdc.copying TO copyist"},
		{`GRANT TEMPORARY ON DATABASE`, "GRANT TEMPORARY ON DATABASE " + w.target.name + " TO copyist"},
	} {
		if err := w.once(txs); err == nil || !strings.Contains(err.Error(), step.want) {
			t.Fatalf("got %v, want %s", err, step.want)
		}
		w.target.exec(step.grant)
	}
	if err := w.once(txs); err != nil {
		t.Fatal(err)
	}
	w.same("t")
	w.target.exec("DROP OWNED BY copyist CASCADE; DROP ROLE copyist")
}

// manyRows is a source with a table of n rows of some 200 bytes.
func manyRows(t testing.TB, n int) (*world, mark.Table) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY, v text)")
	w.source(fmt.Sprintf("INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, %d) g", n))
	w.capture()
	w.csn = 0
	return w, copied("t")[0]
}

// TestCopyArriving: rows that are larger than memory are loaded as they come, with rows in the way or not; status counts
// them, and says what is incomplete.
func TestCopyArriving(t *testing.T) {
	for _, keyed := range []bool{true, false} {
		for _, spool := range []bool{false, true} {
			t.Run(fmt.Sprintf("keyed %t spool %t", keyed, spool), func(t *testing.T) {
				w, table := manyRows(t, 5000)
				table.Keyed = keyed
				f, spill := newFeed(t), new(files)
				cfg := apply.Config{Spill: spill.create}
				if spool {
					cfg.Target = w.spooling(t)
				}
				fl := w.follow(t, f, cfg)
				begin := w.begin(mark.TargetFail, table)
				f.publish(1<<20, 0, begin)
				fl.until(begin.CSN)
				if s := fl.worker.Status(); !s.Incomplete || strings.Join(s.Copying, " ") != "public.t" || s.ConsistentFrom != 0 {
					t.Errorf("status %+v", s)
				}
				chunk := w.chunk(0, table, "true")
				if keyed {
					f.publish(50_000, 3, chunk) // a writer that dies
					w.target.exec("INSERT INTO t VALUES (4000, 'in the way')")
				}
				f.publish(50_000, 0, chunk)
				fl.until(chunk.CSN)
				w.same("t")
				if !spool && spill.made > 0 {
					t.Errorf("%d files made", spill.made)
				}
				end := w.end(table)
				f.publish(1<<20, 0, end)
				fl.until(end.CSN)
				if s := fl.worker.Status(); s.Incomplete || s.Copying != nil || s.ConsistentFrom != end.CSN || s.CopiedRows != 5000 || s.StartSeq != 0 || s.StreamSeq != s.Applied.Seq {
					t.Errorf("status %+v", s)
				}
				if spill.open != 0 {
					t.Errorf("%d files left", spill.open)
				}
			})
		}
	}
}

// stalling is a body that makes its reader wait in the middle.
type stalling struct {
	body []byte
	wait func()
}

func (s *stalling) Size() int64 { return int64(len(s.body)) }
func (s *stalling) Release()    {}
func (s *stalling) Open() (io.ReadCloser, error) {
	half := bytes.NewReader(s.body[:len(s.body)/2])
	return io.NopCloser(io.MultiReader(half, s, bytes.NewReader(s.body[len(s.body)/2:]))), nil
}

// Read has nothing, but takes its time.
func (s *stalling) Read([]byte) (int, error) {
	s.wait()
	return 0, io.EOF
}

// TestCopyStalls: while the rows of a COPY do not come, nobody takes the target for silent. The server waits for us then, for
// which a session would be given up.
func TestCopyStalls(t *testing.T) {
	w, table := manyRows(t, 5000)
	w.cfg.AskAfter = 20 * time.Millisecond
	proxy := newFrozen(t) // only to count connections
	w.cfg.Dial = proxy.dial
	w.must(w.begin(mark.TargetFail, table))
	asked := false
	tx := w.chunk(0, table, "true")
	f := tx.Fragments[0]
	f.Content = &stalling{body: f.Body, wait: func() {
		late, before := time.After(500*time.Millisecond), proxy.made.Load() // many times AskAfter
		for waits := true; waits; {
			select {
			case <-late:
				waits = false
			case <-time.After(time.Millisecond):
				asked = asked || proxy.made.Load() > before
			}
		}
	}}
	f.Body = nil
	w.must(tx)
	if asked {
		t.Error("the target was asked what it does")
	}
	w.same("t")
}

// TestCopyIsKilled: the server ends the session in the middle of a COPY. The worker loads the rows once.
func TestCopyIsKilled(t *testing.T) {
	for _, limit := range []int{900_000, 20_000} {
		t.Run(fmt.Sprint("parts of ", limit), func(t *testing.T) {
			w, table := manyRows(t, 4500)
			w.target.exec(`CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.id = 4000 THEN PERFORM pg_advisory_xact_lock(1); END IF; RETURN NEW; END$$;
				CREATE TRIGGER w BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION wait(); ALTER TABLE t ENABLE ALWAYS TRIGGER w; SELECT pg_advisory_lock(1)`)
			table.Keyed = false // nothing would tell a row from its copy
			w.both("ALTER TABLE t DROP CONSTRAINT t_pkey")
			f, spill := newFeed(t), new(files)
			f.publish(1<<20, 0, w.begin(mark.TargetFail, table))
			f.publish(limit, 0, w.chunk(0, table, "true"), w.end(table))
			fl := w.follow(t, f, apply.Config{Spill: spill.create})
			waits := "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
			late := time.After(time.Minute)
			for w.target.rows(waits) != "1\n" {
				select {
				case <-late:
					t.Fatalf("nobody copies: %+v", fl.worker.Status())
				default:
				}
			}
			w.target.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc apply s' AND datname = current_database()")
			w.target.exec("SELECT pg_advisory_unlock(1)")
			fl.until(w.csn)
			w.same("t")
		})
	}
}
