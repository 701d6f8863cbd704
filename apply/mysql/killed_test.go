package mysql_test

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"shardcdc/apply"
	"shardcdc/apply/mysql"
	"shardcdc/pipeline"
	"shardcdc/pipeline/pause"
)

// Sessions are ended at any moment, COMMIT among them: whoever goes on from the progress applies each transaction once.
func TestKilled(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, 1)
	w.cfg.ChunkBytes = 200
	w.source("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE l (v int); ALTER TABLE l REPLICA IDENTITY FULL")
	var groups [][]*pipeline.Transaction
	for range 80 {
		w.source("INSERT INTO t SELECT coalesce(max(id), 0) + 1, 0 FROM t; INSERT INTO l SELECT n % 3 FROM generate_series(1, 10) n; UPDATE t SET v = v + 1 WHERE id % 3 = 0; DELETE FROM l WHERE ctid IN (SELECT ctid FROM l LIMIT 2)")
		groups = append(groups, w.capture())
	}
	target := w.newTarget()
	killing, stop := context.WithCancel(t.Context())
	killed := make(chan int, 1)
	go func() { killed <- w.killSessions(killing, seed) }()
	defer func() {
		stop()
		if n := <-killed; n == 0 {
			t.Error("no session was ended")
		} else {
			t.Logf("%d sessions were ended", n)
		}
	}()
	broke, doubtful := 0, 0
	for next := 0; next < len(groups); {
		s, at, err := open(w, target)
		if err != nil {
			broke++
			continue
		}
		next = int(at.Seq)
		for next < len(groups) {
			w.at, w.seq = at, pipeline.Seq(next)
			g := w.group(groups[next])
			if dice.IntN(4) == 0 {
				_ = pause.For(t.Context(), time.Millisecond)
			}
			if err = s.Apply(t.Context(), g); err != nil {
				break
			}
			at = g.To
			next++
		}
		s.Close(t.Context())
		var blocked *apply.Blocked
		var fatal *apply.Fatal
		switch {
		case errors.As(err, &blocked), errors.As(err, &fatal):
			t.Fatal(err)
		case err != nil && strings.Contains(err.Error(), "commit"):
			doubtful++
			broke++
		case err != nil:
			broke++
		}
	}
	t.Logf("%d attempts broke, %d of them in COMMIT", broke, doubtful)
	w.same("t", "l")
}

func open(w *world, target *mysql.Target) (apply.Session, apply.Progress, error) {
	s, err := target.Open(w.t.Context())
	if err != nil {
		return nil, apply.Progress{}, err
	}
	at, err := s.Progress(w.t.Context())
	if err != nil {
		s.Close(w.t.Context())
	}
	return s, at, err
}

// killSessions ends sessions in the test's database at random moments, and counts them.
func (w *world) killSessions(ctx context.Context, seed uint64) (n int) {
	dice := rand.New(rand.NewPCG(seed, 1))
	db, err := sql.Open("mysql", maria.DriverDSN())
	if err != nil {
		return 0
	}
	defer db.Close()
	for pause.For(ctx, time.Duration(10+dice.IntN(40))*time.Millisecond) == nil {
		var id int64
		err := db.QueryRowContext(ctx, "SELECT id FROM information_schema.processlist WHERE db = ? AND id IN (SELECT IS_USED_LOCK(CONCAT('cdc_apply_', LEFT(SHA2(CONCAT(?, '\\0s'), 256), 40))))", w.name, w.name).Scan(&id)
		if err != nil {
			continue
		}
		if _, err := db.ExecContext(ctx, "KILL ?", id); err == nil {
			n++
		}
	}
	return n
}
