package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/apply/postgres/ddl"
	"shardcdc/pipeline"
)

// The tables for DDL. cdc.ddl is the ledger: a row for each statement, whatever the number of shards that run it.
// cdc.ddl_done is written by people.
const makeDDLTablesSQL = `
CREATE TABLE IF NOT EXISTS cdc.ddl (
	subscription text NOT NULL,
	id bigint NOT NULL,
	csn bigint NOT NULL,
	statement text NOT NULL,
	search_path text NOT NULL,
	settings jsonb NOT NULL,
	key text NOT NULL,
	shards integer[] NOT NULL,
	executed boolean NOT NULL,
	complete boolean NOT NULL,
	outcome text NOT NULL,
	effects jsonb NOT NULL,
	updated timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (subscription, id));
COMMENT ON TABLE cdc.ddl IS 'DDL statements of the shards and what became of them here; changes together with the data. Do not edit.';
COMMENT ON COLUMN cdc.ddl.csn IS 'Of the first shard''s transaction with it';
COMMENT ON COLUMN cdc.ddl.shards IS 'That have run it; complete when all of the subscription have';
COMMENT ON COLUMN cdc.ddl.effects IS 'How rows of the shards that have not run it fit the tables here';
CREATE TABLE IF NOT EXISTS cdc.ddl_done (
	subscription text NOT NULL,
	csn bigint NOT NULL,
	done_by text NOT NULL DEFAULT session_user,
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (subscription, csn));
COMMENT ON TABLE cdc.ddl_done IS 'Somebody did here what the DDL of these transactions says, in a way of their own: an apply worker does not run it.';
`

// ddlHistoryMax is how many statements that every shard has run are kept in cdc.ddl, for people.
const ddlHistoryMax = 1000

// ddlLedger are the statements that not every shard has run yet, in the order in which the first shard did. The n-th time
// that a shard runs a statement is the n-th time that any shard does.
type ddlLedger struct {
	entries []*ddlEntry
	last    int64 // id given
}

type ddlEntry struct {
	id       int64
	csn      pipeline.CSN
	key      string
	shards   map[pipeline.ShardID]bool
	executed bool
	outcome  string
	effects  []ddl.Effect
	script   script
}

// script is what runs, and where names in it are looked up.
type script struct {
	sql        string
	searchPath string
	settings   map[string]string
}

// next finds the entry that is new to the shard; nil: the statement is new to all.
func (l *ddlLedger) next(key string, shard pipeline.ShardID) *ddlEntry {
	for _, e := range l.entries {
		if e.key == key && !e.shards[shard] {
			return e
		}
	}
	return nil
}

// Statements is described by apply.Session.
func (s *session) Statements() (all []apply.Statement) {
	const most, text = 100, 200
	for _, e := range s.ddl.entries[:min(most, len(s.ddl.entries))] {
		one := apply.Statement{CSN: e.csn, Text: short(e.script.sql, text), Here: e.outcome}
		for i := range s.cfg.Shards {
			if shard := pipeline.ShardID(i); !e.shards[shard] {
				one.Shards = append(one.Shards, shard)
			}
		}
		all = append(all, one)
	}
	return all
}

// add begins an entry.
func (l *ddlLedger) add(key string, csn pipeline.CSN) *ddlEntry {
	l.last++
	e := &ddlEntry{id: l.last, csn: csn, key: key, shards: map[pipeline.ShardID]bool{}}
	l.entries = append(l.entries, e)
	return e
}

func (l *ddlLedger) remove(e *ddlEntry) {
	l.entries = slices.DeleteFunc(l.entries, func(x *ddlEntry) bool { return x == e })
}

// view is how the target shows a table of a shard that has not run everything that ran here.
type view struct {
	name    tableName
	gone    bool              // the table was dropped here
	columns map[string]string // names that are others here
	dropped map[string]bool   // columns, by their names here
}

// see finds out how a shard's table shows on the target.
func (l *ddlLedger) see(shard pipeline.ShardID, name tableName) view {
	v := view{name: name}
	for _, e := range l.entries {
		if !e.executed || e.shards[shard] {
			continue
		}
		for _, effect := range e.effects {
			if (tableName{effect.Table.Schema, effect.Table.Name}) == v.name {
				v.take(effect)
			}
		}
	}
	return v
}

func (v *view) take(e ddl.Effect) {
	switch e.Kind {
	case ddl.CreateTable, ddl.Default:
	case ddl.DropTable:
		v.gone = true
	case ddl.RenameTable:
		v.name = tableName{e.Into.Schema, e.Into.Name}
	case ddl.RenameColumn:
		if v.columns == nil {
			v.columns = map[string]string{}
		}
		for source, here := range v.columns {
			if here == e.From {
				v.columns[source] = e.To
				return
			}
		}
		v.columns[e.From] = e.To
	case ddl.DropColumn:
		if v.dropped == nil {
			v.dropped = map[string]bool{}
		}
		v.dropped[e.From] = true
	}
}

// column is the name here of a column of the shard; dropped: its values are left out.
func (v *view) column(source string) (here string, dropped bool) {
	here = source
	if to, ok := v.columns[source]; ok {
		here = to
	}
	return here, v.dropped[here]
}

// readDDL reads the ledger. No older session can change it any more. When DDL is ignored, what waits for shards is over: it
// would not be noticed that they run it.
func (s *session) readDDL(ctx context.Context) error {
	s.ddl = ddlLedger{}
	if s.cfg.DDL == DDLIgnore {
		_, err := s.query(ctx, "UPDATE cdc.ddl SET complete = true, outcome = outcome || $2 WHERE subscription = $1 AND NOT complete", s.cfg.Subscription, outcomeForgotten)
		var pg *pgconn.PgError
		if err == nil || errors.As(err, &pg) && pg.Code == "42501" { // a role without the right has nothing in there
			return nil
		}
		return fmt.Errorf("write cdc.ddl: %w", err)
	}
	rows, err := s.query(ctx, `SELECT id::text, csn::text, key, pg_catalog.array_to_string(shards, ','), executed, effects::text, statement, search_path, settings::text, outcome,
		(SELECT coalesce(max(id), 0)::text FROM cdc.ddl WHERE subscription = $1)
		FROM cdc.ddl WHERE subscription = $1 AND NOT complete ORDER BY id`, s.cfg.Subscription)
	if err != nil {
		return blockedIfRight(fmt.Errorf("read cdc.ddl on the target: %w", err),
			s.ddlRights())
	}
	for _, r := range rows {
		e := &ddlEntry{
			key: string(r[2]), shards: map[pipeline.ShardID]bool{}, executed: string(r[4]) == "t", outcome: string(r[9]),
			script: script{sql: string(r[6]), searchPath: string(r[7])},
		}
		var errs [6]error
		e.id, errs[0] = strconv.ParseInt(string(r[0]), 10, 64)
		e.csn, errs[1] = pipeline.ParseCSN(string(r[1]))
		s.ddl.last, errs[2] = strconv.ParseInt(string(r[10]), 10, 64)
		errs[3] = json.Unmarshal(r[5], &e.effects)
		errs[4] = json.Unmarshal(r[8], &e.script.settings)
		for _, text := range strings.FieldsFunc(string(r[3]), func(c rune) bool { return c == ',' }) {
			shard, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				errs[5] = err
			}
			e.shards[pipeline.ShardID(shard)] = true
		}
		for _, err := range errs {
			if err != nil {
				return fmt.Errorf("read cdc.ddl: %w", err)
			}
		}
		s.ddl.entries = append(s.ddl.entries, e)
	}
	if len(rows) > 0 {
		return nil
	}
	highest, err := s.query(ctx, "SELECT coalesce(max(id), 0)::text FROM cdc.ddl WHERE subscription = $1", s.cfg.Subscription)
	if err != nil {
		return fmt.Errorf("read cdc.ddl: %w", err)
	}
	s.ddl.last, err = strconv.ParseInt(string(highest[0][0]), 10, 64)
	return err
}

func (s *session) ddlRights() string {
	return fmt.Sprintf("GRANT SELECT, INSERT, UPDATE, DELETE ON cdc.ddl, cdc.ddl_done TO %s; it goes on by itself", quote(s.user()))
}

// writeDDL stores an entry, and forgets it when every shard has run it.
func (s *session) writeDDL(ctx context.Context, e *ddlEntry) error {
	complete := len(e.shards) >= s.cfg.Shards
	var shards []string
	for shard := range e.shards {
		shards = append(shards, strconv.Itoa(int(shard)))
	}
	slices.Sort(shards)
	effects, err := json.Marshal(e.effects)
	if err != nil {
		return err
	}
	settings, err := json.Marshal(e.script.settings)
	if err != nil {
		return err
	}
	_, err = s.query(ctx, `INSERT INTO cdc.ddl (subscription, id, csn, statement, search_path, settings, key, shards, executed, complete, outcome, effects)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (subscription, id) DO UPDATE SET
		shards = excluded.shards, executed = excluded.executed, complete = excluded.complete, outcome = excluded.outcome, effects = excluded.effects, updated = clock_timestamp()`,
		s.cfg.Subscription, strconv.FormatInt(e.id, 10), e.csn.String(), e.script.sql, e.script.searchPath, string(settings), e.key,
		"{"+strings.Join(shards, ",")+"}", strconv.FormatBool(e.executed), strconv.FormatBool(complete), e.outcome, string(effects))
	if err == nil && complete {
		s.ddl.remove(e)
		_, err = s.query(ctx, "DELETE FROM cdc.ddl WHERE subscription = $1 AND complete AND id <= $2::bigint", s.cfg.Subscription, strconv.FormatInt(e.id-ddlHistoryMax, 10))
	}
	if err != nil {
		return fmt.Errorf("write cdc.ddl: %w", err)
	}
	return nil
}
