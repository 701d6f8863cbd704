package mysql

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Wanted is a table that will be applied to.
type Wanted struct {
	Schema, Table string // on the source
	Columns       []string
	Keyed         bool // it is copied by its key
}

// Seen is what a target has for one Wanted.
type Seen struct {
	Wanted
	Name     string   // on the target, quoted
	There    bool     // of the rest nothing is known if not
	Engine   string   // what it is, if that is no table with transactions
	Missing  []string // columns
	Keyless  bool     // Wanted.Keyed, and it has no key on NOT NULL columns that are wanted
	Rows     bool     // it holds some
	Database string   // in which it is
	NoPlace  bool     // and that is not there
	Folding  []string // columns of a key whose collation calls different strings equal
}

// Server is what Look says of it.
type Server struct {
	Version string
	// Forgets are settings by which a server that loses its power loses commits that it acknowledged, data and progress together.
	Forgets []string
}

// Look connects and looks at a target, and changes nothing.
func Look(ctx context.Context, dsn string, wanted []Wanted) (server Server, seen []Seen, err error) {
	t, err := New(Config{DSN: dsn, Subscription: "check", Shards: 1})
	if err != nil {
		return server, nil, err
	}
	s, err := t.open(ctx)
	if err != nil {
		return server, nil, err
	}
	defer s.Close(ctx)
	if server, err = s.server(ctx); err != nil {
		return server, nil, err
	}
	for _, w := range wanted {
		one, err := s.look(ctx, w)
		if err != nil {
			return server, seen, fmt.Errorf("look at %s: %w", one.Name, err)
		}
		seen = append(seen, one)
	}
	return server, seen, nil
}

// server reads what a commit is worth. With a binary log it is the log that decides, after a crash, whether a transaction was committed.
func (s *session) server(ctx context.Context) (server Server, err error) {
	var flush, binlog, sync int64
	err = s.conn.QueryRowContext(ctx, "SELECT VERSION(), @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog").Scan(&server.Version, &flush, &binlog, &sync)
	if flush != 1 && flush != 3 { // 3, of MariaDB, syncs more often
		server.Forgets = append(server.Forgets, fmt.Sprintf("innodb_flush_log_at_trx_commit = %d", flush))
	}
	if binlog != 0 && sync != 1 {
		server.Forgets = append(server.Forgets, fmt.Sprintf("sync_binlog = %d", sync))
	}
	return server, err
}

func (s *session) look(ctx context.Context, w Wanted) (Seen, error) {
	name := s.targetName(w.Schema, w.Table)
	one := Seen{Wanted: w, Name: name.String(), Database: name.schema}
	for _, err := range []error{s.mayBe(name), s.claim(tableName{w.Schema, w.Table}, name)} {
		if err != nil {
			return one, err
		}
	}
	n := 0
	if err := s.conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = ?", name.schema).Scan(&n); err != nil {
		return one, err
	}
	one.NoPlace = n == 0
	engine, err := s.engine(ctx, name)
	if err != nil || engine == "" {
		return one, err
	}
	one.There = true
	if engine != innoDB {
		one.Engine = engine
		return one, nil
	}
	t, err := s.find(ctx, name)
	if err != nil {
		return one, err
	}
	for _, c := range w.Columns {
		if t.column(c) == nil {
			one.Missing = append(one.Missing, c)
		}
	}
	one.Keyless = w.Keyed && !t.hasKeyOf(w.Columns)
	for _, key := range t.keys {
		for _, c := range key {
			if c.folds {
				one.Folding = append(one.Folding, c.name)
			}
		}
	}
	return one, s.conn.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+one.Name+")").Scan(&one.Rows)
}

// hasKeyOf: a key that consists of these columns.
func (t *table) hasKeyOf(columns []string) bool {
	for _, key := range t.keys {
		n := 0
		for _, c := range key {
			for _, name := range columns {
				if t.column(name) == c {
					n++
					break
				}
			}
		}
		if n == len(key) {
			return true
		}
	}
	return false
}

// Old says whether a server, by what VERSION() says, is too old: without NOWAIT, or without what settings ask for.
func Old(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	x, err := strconv.Atoi(major)
	if err != nil {
		return false
	}
	y, _ := strconv.Atoi(minor)
	if isMariaDB(version) {
		return x < 10 || x == 10 && y < 6
	}
	return x < 8
}

// Left is what a target holds about a subscription.
type Left struct {
	Progress bool
	Copying  int // rows
	Skipped  int // rows: what the database lacks
	Others   bool
	There    []string // of Tables
}

// LookAtOwn reads what a target holds about a subscription, and changes nothing.
func LookAtOwn(ctx context.Context, dsn, subscription string) (left Left, err error) {
	err = withOwn(ctx, dsn, subscription, func(s *session) error {
		left, err = s.left(ctx)
		return err
	})
	return left, err
}

// Forget deletes what a target holds about a subscription: but for what was skipped, unless everything goes. Tables without rows go
// when nobody's progress is left.
func Forget(ctx context.Context, dsn, subscription string, everything bool) (left Left, dropped []string, err error) {
	err = withOwn(ctx, dsn, subscription, func(s *session) error {
		if left, err = s.left(ctx); err != nil {
			return err
		}
		for _, name := range left.There {
			if name == "cdc_skipped" && !everything {
				continue
			}
			if _, err := s.exec(ctx, "DELETE FROM "+name+" WHERE subscription = ?", subscription); err != nil {
				return fmt.Errorf("delete from %s: %w", name, err)
			}
		}
		if left.Others {
			return nil
		}
		for _, name := range left.There {
			n := 0
			if err := s.conn.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+name+")").Scan(&n); err != nil {
				return fmt.Errorf("look into %s: %w", name, err)
			}
			if n > 0 {
				continue
			}
			if _, err := s.exec(ctx, "DROP TABLE "+name); err != nil {
				return fmt.Errorf("drop %s: %w", name, err)
			}
			dropped = append(dropped, name)
		}
		return nil
	})
	return left, dropped, err
}

func withOwn(ctx context.Context, dsn, subscription string, fn func(*session) error) error {
	t, err := New(Config{DSN: dsn, Subscription: subscription, Shards: 1})
	if err != nil {
		return err
	}
	s, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	return fn(s)
}

func (s *session) left(ctx context.Context) (left Left, err error) {
	there, err := s.ownTables(ctx)
	if err != nil {
		return left, err
	}
	left.There = there
	for _, name := range there {
		mine, rows := 0, 0
		err := s.conn.QueryRowContext(ctx, "SELECT COALESCE(SUM(subscription = ?), 0), COUNT(*) FROM "+name, s.cfg.Subscription).Scan(&mine, &rows)
		if err != nil {
			return left, fmt.Errorf("look into %s: %w", name, err)
		}
		switch name {
		case "cdc_progress":
			left.Progress, left.Others = mine > 0, rows > mine
		case "cdc_copying":
			left.Copying = mine
		case "cdc_skipped":
			left.Skipped = mine
		}
	}
	return left, nil
}
