package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
	"shardcdc/apply/schedule"
	"shardcdc/pipeline"
)

// backlog is a source of which the worker has read everything before it applies more than the first unit, which waits for a
// lock of the test.
type backlog struct {
	*memory
	once sync.Once
	read chan struct{} // closed when all was read
}

func (b *backlog) Open(ctx context.Context, after pipeline.Seq) (apply.Reader, error) {
	r, err := b.memory.Open(ctx, after)
	return &backlogReader{r.(*memoryReader), b}, err
}

type backlogReader struct {
	*memoryReader
	b *backlog
}

func (r *backlogReader) Next(ctx context.Context) (apply.Unit, error) {
	if len(r.rest) == 0 {
		r.b.once.Do(func() { close(r.b.read) })
	}
	return r.memoryReader.Next(ctx)
}

// gate makes the first transaction, whose row is locked on the target until open is called. What was done before on the shard is no
// part of the stream.
func (w *world) gate() (open func(b *backlog)) {
	w.both("CREATE TABLE gate (id int PRIMARY KEY, v int); INSERT INTO gate VALUES (1, 0)")
	w.capture()
	w.csn = 0
	w.source("UPDATE gate SET v = 1")
	unlock := w.lock("gate", 1)
	return func(b *backlog) {
		select {
		case <-b.read:
		case <-time.After(time.Minute):
			w.t.Fatal("the worker does not read")
		}
		unlock()
		for late := time.After(time.Minute); w.target.rows("SELECT v FROM gate") != "1\n"; { // else its session is taken for one of those behind it
			select {
			case <-late:
				w.t.Fatal("the first transaction does not come")
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

// lock locks a row of the target from outside.
func (w *world) lock(table string, id int) (unlock func()) {
	c := connect(w.t, w.target.name)
	if _, err := c.Exec(w.t.Context(), fmt.Sprintf("BEGIN; SELECT FROM %s WHERE id = %d FOR UPDATE", table, id)).ReadAll(); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		if err := c.Close(context.Background()); err != nil {
			w.t.Fatal(err)
		}
	}
}

func newBacklog(txs []*pipeline.Transaction) *backlog {
	return &backlog{memory: newMemory("stream", txs...), read: make(chan struct{})}
}

// sessions waits until so many of the worker's sessions on the target are so.
func (w *world) sessions(want int, is string) {
	w.t.Helper()
	late := time.After(time.Minute)
	for {
		got := w.count(is)
		if got == want {
			return
		}
		select {
		case <-late:
			w.t.Fatalf("%d sessions with %s, want %d:\n%s", got, is, want,
				w.target.rows("SELECT pid, state, wait_event_type, wait_event, query FROM pg_stat_activity WHERE application_name = 'cdc apply s'"))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// count counts the worker's sessions on the target for which this is so.
func (w *world) count(is string) (n int) {
	w.t.Helper()
	text := w.target.rows("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cdc apply s' AND datname = current_database() AND " + is)
	if _, err := fmt.Sscan(text, &n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

const (
	waitsForTurn  = "state = 'idle in transaction'"
	waitsForLock  = "wait_event_type = 'Lock'"
	inTransaction = "xact_start IS NOT NULL"
)

// TestLaterGroupRuns: while a group waits for a lock, one behind it that touches another row has done everything but commit, and
// one that touches the same row has not begun.
func TestLaterGroupRuns(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0)")
	open := w.gate()
	w.source("UPDATE t SET v = 1 WHERE id = 1")
	w.source("UPDATE t SET v = 2 WHERE id = 2")
	w.source("UPDATE t SET v = 3 WHERE id = 1")
	b := newBacklog(w.capture())
	unlock := w.lock("t", 1)
	fl := w.follow(t, nil, apply.Config{Source: b, GroupUnits: 1})
	open(b)
	w.sessions(1, waitsForLock)
	w.sessions(1, waitsForTurn)
	if got := w.target.rows("SELECT id, v FROM t ORDER BY id") + w.target.rows("SELECT csn FROM cdc.progress"); got != "1|0\n2|0\n1\n" {
		t.Errorf("got %q", got)
	}
	unlock()
	fl.until(w.csn)
	w.same("t", "gate")
}

// TestUnseenIndex: the first group waits for a later one by way of an index that the session does not know of. The later one makes
// way, and nobody sees an error.
func TestUnseenIndex(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY, u int); INSERT INTO t VALUES (1, 1), (3, 3)")
	open := w.gate()
	w.source("UPDATE t SET u = 30 WHERE id = 3")
	w.source("UPDATE t SET u = 5 WHERE id = 1")
	w.source("UPDATE t SET u = 9 WHERE id = 1")
	w.source("INSERT INTO t VALUES (2, 5)")
	b := newBacklog(w.capture())
	target, err := postgres.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	admin := connect(t, w.target.name)
	defer admin.Close(context.Background())
	unlock := make(chan func(), 1)
	fl := w.follow(t, nil, apply.Config{Source: b, GroupUnits: 1, Target: &learning{Target: target, learned: func() {
		if _, err := admin.Exec(context.Background(), "CREATE UNIQUE INDEX ON t (u)").ReadAll(); err != nil {
			t.Error(err)
		}
		unlock <- w.lock("t", 1)
	}}})
	open(b)
	w.sessions(1, waitsForLock)
	w.sessions(1, waitsForTurn)
	(<-unlock)()
	fl.until(w.csn)
	w.same("t")
	for len(fl.states) > 0 {
		if s := <-fl.states; s.Err != "" {
			t.Error(s.Err)
		}
	}
}

// learning is a target that calls learned when the session has seen what the second transaction touches.
type learning struct {
	apply.Target
	learned func()
}

func (l *learning) Open(ctx context.Context) (apply.Session, error) {
	s, err := l.Target.Open(ctx)
	return &learningSession{s, l.learned}, err
}

type learningSession struct {
	apply.Session
	learned func()
}

func (s *learningSession) Touches(ctx context.Context, g *apply.Group, keys []schedule.Key) ([]schedule.Key, bool) {
	keys, alone := s.Session.Touches(ctx, g, keys)
	if g.To.CSN == 2 {
		s.learned()
	}
	return keys, alone
}

// bank is random transactions, and what the tables hold after each.
type bank struct {
	w      *world
	r      *rand.Rand
	states []string // after so many transactions
}

const accounts = 12

// bankState is what one snapshot shows: how many transactions, and what they left.
const bankState = `SELECT (SELECT coalesce(max(n), 0) FROM log) n, (SELECT count(*) FROM log), (SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM account),
	(SELECT string_agg(id || '=' || name, ' ' ORDER BY id) FROM keyed), (SELECT string_agg(id || '=' || name, ' ' ORDER BY id) FROM whole)`

func newBank(t *testing.T, transactions int) (b *bank, open func(*backlog)) {
	t.Logf("seed %d (repeat with -seed)", *seed)
	b = &bank{w: newWorld(t, 1), r: rand.New(rand.NewPCG(*seed, 7))}
	b.w.both(fmt.Sprintf(`CREATE TABLE log (n int PRIMARY KEY); CREATE TABLE account (id int PRIMARY KEY, v int);
		CREATE TABLE keyed (id int PRIMARY KEY, name text UNIQUE);
		CREATE TABLE whole (id int PRIMARY KEY, name text UNIQUE); ALTER TABLE whole REPLICA IDENTITY FULL;
		INSERT INTO account SELECT g, 100 FROM generate_series(1, %d) g`, accounts))
	open = b.w.gate()
	b.states = append(b.states, b.w.shards[0].rows(bankState))
	for n := 1; n <= transactions; n++ {
		b.w.source(fmt.Sprintf("BEGIN; INSERT INTO log VALUES (%d); %s COMMIT", n, b.change()))
		b.states = append(b.states, b.w.shards[0].rows(bankState))
	}
	return b, open
}

// look sees that the target shows a state of the source that is not before the last one seen; the state begins with its number.
func (w *world) look(query string, states []string, last int) (n int) {
	w.t.Helper()
	state := w.target.rows(query)
	if _, err := fmt.Sscanf(state, "%d|", &n); err != nil {
		w.t.Fatal(err)
	}
	if n < last || state != states[n] {
		w.t.Fatalf("seed %d: after %d, the target shows\n%sthe source after %d\n%s", *seed, last, state, n, states[n])
	}
	return n
}

// change is some transfers between accounts, or names that come, go and change hands.
func (b *bank) change() string {
	r := b.r
	if r.IntN(3) > 0 {
		return fmt.Sprintf("UPDATE account SET v = v - %[1]d WHERE id = %[2]d; UPDATE account SET v = v + %[1]d WHERE id = %[3]d;",
			r.IntN(50), 1+r.IntN(accounts), 1+r.IntN(accounts))
	}
	id, name := r.IntN(8), r.IntN(10)
	return strings.ReplaceAll([]string{
		fmt.Sprintf("DELETE FROM TABLE WHERE name = 'n%d'; INSERT INTO TABLE VALUES (%d, 'n%[1]d') ON CONFLICT DO NOTHING;", name, id),
		fmt.Sprintf("UPDATE TABLE SET name = 'n%d' WHERE id = %d AND NOT EXISTS (SELECT FROM TABLE WHERE name = 'n%[1]d');", name, id),
		fmt.Sprintf("UPDATE TABLE SET name = NULL WHERE id = %d;", id),
		fmt.Sprintf("DELETE FROM TABLE WHERE id = %d;", id),
	}[r.IntN(4)], "TABLE", []string{"keyed", "whole"}[r.IntN(2)])
}

// TestEveryStateWasOne: while groups run on several lanes, and lanes are ended in the middle, every snapshot of the target is one
// that the source had, and they follow each other.
func TestEveryStateWasOne(t *testing.T) {
	const transactions = 400
	for _, kills := range []bool{false, true} {
		t.Run(map[bool]string{false: "quiet", true: "kills"}[kills], func(t *testing.T) {
			b, open := newBank(t, transactions)
			w := b.w
			source := newBacklog(w.capture())
			fl := w.follow(t, nil, apply.Config{Source: source, GroupUnits: 1 + b.r.IntN(3)})
			open(source)
			last, lanes, looks := -1, 0, 0
			for last < transactions {
				last = w.look(bankState, b.states, last)
				looks++
				if kills && looks%40 == 0 {
					w.target.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc apply s' AND datname = current_database() ORDER BY random() LIMIT 1")
				}
				lanes = max(lanes, w.count(inTransaction))
			}
			fl.until(w.csn)
			w.same("account", "keyed", "whole", "log")
			w.proves("account", "keyed", "whole", "log")
			t.Logf("%d looks, at most %d lanes busy", looks, lanes)
			if lanes < 2 {
				t.Error("nothing ran together: it proves nothing")
			}
		})
	}
}

// TestOvertaken: a session, and a lane of it, cannot commit once another one has read the progress, though nothing changed; and the
// worker that was overtaken does not take over again.
func TestOvertaken(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	g := w.group(w.capture())
	overtaken, err := postgres.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	open := func() (apply.Session, error) {
		s, err := overtaken.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close(context.Background()) })
		if _, err = s.Progress(t.Context()); err != nil {
			s.Close(context.Background())
		}
		return s, err
	}
	wants := func(what string, err error) {
		t.Helper()
		var fatal *apply.Fatal
		if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "another worker is ahead") {
			t.Errorf("%s: %v", what, err)
		}
	}
	old, err := open()
	if err != nil {
		t.Fatal(err)
	}
	lane, err := old.Lane(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lane.Close(context.Background())
	w.open()
	wants("the lane", lane.Apply(t.Context(), g))
	wants("the session", old.Apply(t.Context(), g))
	_, err = open()
	wants("the next attempt", err)
	if got := w.target.rows("SELECT * FROM t"); got != "" {
		t.Errorf("got %q", got)
	}
	if err := w.session.Apply(t.Context(), g); err != nil {
		t.Error(err)
	}
}

// TestLocksOfOlderSession: a lane that waits for its turn holds locks on rows. It is ended when a new session reads the progress.
func TestLocksOfOlderSession(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	g := w.group(w.capture())
	w.open()
	lane, err := w.session.Lane(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lane.Close(context.Background())
	late, turn, waits := g, make(chan struct{}), make(chan struct{})
	late.Turn = func(context.Context) error { close(waits); <-turn; return nil }
	done := make(chan error, 1)
	go func() { done <- lane.Apply(context.Background(), late) }()
	<-waits
	w.open()
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Second) // the server alone ends it after a minute
	defer cancel()
	if err := w.session.Apply(soon, g); err != nil {
		t.Error(err)
	}
	close(turn)
	if err := <-done; err == nil {
		t.Error("the older lane could commit")
	}
	if got := w.target.rows("SELECT * FROM t"); got != "1\n" {
		t.Errorf("got %q", got)
	}
}

// TestLongWaitForTurn: the server would end a session that is silent in a transaction; the one that waits is not.
func TestLongWaitForTurn(t *testing.T) {
	defer postgres.PingTurns(20 * time.Millisecond)()
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	g := w.group(w.capture())
	w.open()
	calls := 0
	g.Turn = func(ctx context.Context) error {
		if calls++; calls == 5 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	if err := w.session.Apply(t.Context(), g); err != nil || calls != 5 {
		t.Errorf("%d calls, %v", calls, err)
	}
	w.same("t")
}
