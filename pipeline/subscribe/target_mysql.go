package subscribe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"shardcdc/apply/mysql"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/dsn"
	"shardcdc/pipeline/mark"
)

// expand fills in a target's DSN and says what it leads to. What cannot be filled in here is taken as it stands.
func expand(t *control.Target) (expanded string, kind dsn.Kind, err error) {
	expanded, err = dsn.Expand(t.DSN, os.LookupEnv)
	if err != nil {
		return "", dsn.KindOf(t.DSN), err
	}
	return expanded, dsn.KindOf(expanded), nil
}

func isMySQL(t *control.Target) bool {
	_, kind, _ := expand(t)
	return kind == dsn.MySQL
}

// checkMySQL looks whether changes can be replayed on a target of MySQL or MariaDB, and rows copied.
func checkMySQL(ctx context.Context, t *control.Target, tables []table, wish copyWish) []Finding {
	about := "target " + t.Name
	expanded, _, err := expand(t)
	if err != nil {
		return []Finding{FaultOf(about, err)}
	}
	wanted := make([]mysql.Wanted, len(tables))
	for i, t := range tables {
		wanted[i] = mysql.Wanted{Schema: t.schema, Table: t.name, Columns: t.columns, Keyed: len(t.key) > 0}
	}
	server, seen, err := mysql.Look(ctx, expanded, wanted)
	if err != nil {
		f := FaultOf(about, errors.New(dsn.Scrub(unblocked(err), expanded)))
		if f.Try == "" {
			f.Try = "check host, port, database, user and password"
		}
		return []Finding{f}
	}
	if mysql.Old(server.Version) {
		return []Finding{faultf(about, "MySQL 8.0 or newer, MariaDB 10.6 or newer", "version %s is too old", server.Version)}
	}
	l := lookedMySQL{about: about, wish: wish, forgets: server.Forgets}
	for i, s := range seen {
		if !s.There && wish.blind(tables[i]) {
			l.blind = append(l.blind, s.Name)
			continue
		}
		l.table(s)
	}
	if findings := l.findings(); len(findings) > 0 || len(tables) == 0 {
		return findings
	}
	return []Finding{{Severity: Info, About: about, What: fmt.Sprintf("every table (%d) is there with its columns (%s)", len(tables), server.Version)}}
}

// unblocked is the error's text without the promise that a worker goes on by itself.
func unblocked(err error) string { return strings.TrimSuffix(err.Error(), "; it goes on by itself") }

// lookedMySQL collects tables by what is wrong with them.
type lookedMySQL struct {
	about string
	wish  copyWish

	missing, narrow, engines, keyless, filled, folding, places, blind []string
	forgets                                                           []string
	first                                                             mysql.Seen // of those that are narrow
}

func (l *lookedMySQL) table(s mysql.Seen) {
	switch {
	case !s.There && s.NoPlace:
		l.places = append(l.places, s.Name)
		return
	case !s.There:
		l.missing = append(l.missing, s.Name)
		return
	case s.Engine != "":
		l.engines = append(l.engines, s.Name+" ("+s.Engine+")")
		return
	}
	if len(s.Missing) > 0 {
		if l.narrow == nil {
			l.first = s
		}
		l.narrow = append(l.narrow, s.Name+" ("+strings.Join(s.Missing, ", ")+")")
	}
	if s.Keyless && l.wish.copies() {
		l.keyless = append(l.keyless, s.Name)
	}
	if s.Rows && l.wish.targetRows == mark.TargetFail {
		l.filled = append(l.filled, s.Name)
	}
	if len(s.Folding) > 0 {
		l.folding = append(l.folding, s.Name+" ("+strings.Join(s.Folding, ", ")+")")
	}
}

func (l *lookedMySQL) findings() (all []Finding) {
	add := func(names []string, severity Severity, try, what string) {
		if len(names) > 0 {
			all = append(all, Finding{Severity: severity, About: l.about, What: what + ": " + some(names), Try: try})
		}
	}
	waits, otherwise := Warning, ""
	if l.wish.copies() { // everything else would wait as well
		waits, otherwise = Error, l.wish.otherwise
	}
	if l.wish.creates {
		add(append(l.missing, l.places...), Info, "", "tables are missing there, and are made before their first rows")
	} else {
		add(l.places, waits, "create the databases, which have the names of the schemas (public is the DSN's database), or let the target make them (--create-tables)"+otherwise,
			"tables are missing there, with their databases")
		add(l.missing, waits, "create them (docs/mysql.md has the types), or let the target make them (--create-tables)"+otherwise, "tables are missing there")
	}
	if len(l.blind) > 0 {
		all = append(all, l.wish.blindTables(l.about, some(l.blind)))
	}
	if l.narrow != nil {
		add(l.narrow, waits, "ALTER TABLE "+l.first.Name+" ADD COLUMN `"+l.first.Missing[0]+"` …"+otherwise, "columns are missing there")
	}
	add(l.engines, Error, "ALTER TABLE … ENGINE = InnoDB", "what is there is no table with transactions")
	add(l.keyless, Error, "the key that the shards have (ALTER TABLE … ADD PRIMARY KEY)"+otherwise, "tables have a key on the shards and none there, by which a copied row could be found")
	add(l.filled, Error, "DELETE the rows there; or --if-target-has-rows truncate, which does, or merge, which writes over rows with the same key and keeps the others", "tables hold rows there already")
	add(l.folding, Warning, "ALTER TABLE … CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin (MariaDB) or utf8mb4_0900_bin (MySQL)",
		"keys have a collation that calls strings equal which PostgreSQL tells apart; two such rows stop the target")
	add(l.forgets, Warning, "SET GLOBAL innodb_flush_log_at_trx_commit = 1, sync_binlog = 1, and in the server's configuration; or keep the stream for longer than a crash may take back (--retain)",
		"a crash of the machine takes back the last commits, data and progress together, and they are applied again, if the stream still has them")
	return all
}

// some names the first.
func some(names []string) string {
	if more := len(names) - namesMax; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:namesMax], ", "), more)
	}
	return strings.Join(names, ", ")
}

// leftOnMySQL words what a target holds about a subscription.
func leftOnMySQL(left mysql.Left, about, subscription string, everything bool) (f forgotten) {
	if left.Progress {
		f.removed = append(f.removed, about+": progress of "+subscription)
	}
	if left.Copying > 0 {
		f.removed = append(f.removed, fmt.Sprintf("%s: cdc_copying, rows of %s: %d", about, subscription, left.Copying))
	}
	if left.Skipped > 0 {
		what := fmt.Sprintf("%s: cdc_skipped, rows of %s: %d", about, subscription, left.Skipped)
		if everything {
			f.removed = append(f.removed, what)
		} else {
			f.kept = append(f.kept, what)
		}
	}
	return f
}

func forgetMySQL(ctx context.Context, t *control.Target, subscription string, everything bool) ([]string, error) {
	about := "target " + t.Name
	expanded, _, err := expand(t)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", about, err)
	}
	left, dropped, err := mysql.Forget(ctx, expanded, subscription, everything)
	if err != nil {
		return nil, fmt.Errorf("%s: remove the progress of %s: %s", about, subscription, dsn.Scrub(unblocked(err), expanded))
	}
	removed := leftOnMySQL(left, about, subscription, everything).removed
	for _, name := range dropped {
		removed = append(removed, about+": table "+name)
	}
	return removed, nil
}

func previewMySQL(ctx context.Context, t *control.Target, subscription string, everything bool) (p Preview) {
	about := "target " + t.Name
	expanded, _, err := expand(t)
	if err != nil {
		return Preview{Unknown: []string{about + ": " + err.Error()}}
	}
	left, err := mysql.LookAtOwn(ctx, expanded, subscription)
	if err != nil {
		return Preview{Unknown: []string{about + ": " + dsn.Scrub(unblocked(err), expanded)}}
	}
	f := leftOnMySQL(left, about, subscription, everything)
	p.Remove, p.Keep = f.removed, f.kept
	if left.Others {
		return p
	}
	for _, name := range left.There {
		if name != "cdc_skipped" || left.Skipped == 0 || everything {
			p.Remove = append(p.Remove, about+": table "+name)
		}
	}
	return p
}
