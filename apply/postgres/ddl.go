package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/apply/postgres/ddl"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/moves"
	"shardcdc/pipeline/textform"
)

// DDL from the stream (package mark). A statement that every shard runs is one entry of the ledger (cdc.ddl) and runs once
// here, at the first shard's place or at the last one's; package ddl says which. It runs in the target transaction of its
// source transaction, so a reader of the target sees it together with the rows, and a crash undoes both.
//
//	mark ─► which statement? ─► new to all shards ─► first: run it    ─┐
//	                        └─► run by some       ─► last one: run it ─┴► ledger ─► tables are looked up anew
//
// Between the first shard's place and the last one's, rows of the others are read by the ledger's effects (see view).
//
// What does not run by itself (DDLStop, a ddl.Refusal, an error) is Blocked. Whoever does it by hand says so in
// cdc.ddl_done, and the transaction's rows are applied; cdcctl skip leaves the whole transaction out.
//
// If the thing is there already, or gone, there is nothing to do, and cdc.ddl says so: somebody was faster, or the target
// always had it.
//
// BUG(apply): a transaction with DDL and TRUNCATE is Blocked, and rows that move between shards in a transaction with DDL
// may meet themselves.
//
// BUG(apply): between the first and the last shard's ALTER TYPE … RENAME VALUE, rows of one of them have a label that the
// target does not know, and block. Do it in a distributed transaction.

// DDLPolicy says what becomes of DDL in the stream.
type DDLPolicy string

const (
	// DDLIgnore: nothing. The default.
	DDLIgnore DDLPolicy = "ignore"
	// DDLCapture runs it.
	DDLCapture DDLPolicy = "capture"
	// DDLStop blocks, and says what to run.
	DDLStop DDLPolicy = "stop"
)

// outcomes, for people who read cdc.ddl.
const (
	outcomeRan     = "executed"
	outcomeWas     = "was so already"
	outcomeByHand  = "done by hand"
	outcomeLeftOut = "left out with its transaction"
	outcomeTarget  = "left to the target: its table is not partitioned"
	outcomeNotOurs = "left to the target: the table was not captured, and is another one here"
	outcomeWaits   = "waits until every shard has run it"

	outcomeForgotten = "; DDL was ignored before every shard had run it" // behind another one
)

// ddlMark does what a mark says. skipped: the transaction is left out on request.
func (s *session) ddlMark(ctx context.Context, tx *pipeline.Transaction, shard pipeline.ShardID, d *mark.DDL, skipped bool) error {
	if s.cfg.DDL == DDLIgnore {
		return nil
	}
	what, err := ddl.Read(d)
	var refusal *ddl.Refusal
	if err != nil && !errors.As(err, &refusal) {
		return err
	}
	if refusal == nil && what.SQL == "" {
		return nil
	}
	r := &ddlRun{session: s, tx: tx, d: d, what: what, refusal: refusal}
	if err := r.take(ctx, shard, skipped); err != nil {
		return at(tx.CSN, classify(err, &apply.Blocked{CSN: tx.CSN, Problem: r.problem("fails here"), Try: r.byHand()}))
	}
	s.unlearn()
	return nil
}

// ddlRun is one statement of one shard.
type ddlRun struct {
	*session
	tx      *pipeline.Transaction
	d       *mark.DDL
	what    *ddl.Statement
	refusal *ddl.Refusal
}

// problem names the statement.
func (r *ddlRun) problem(what string) string {
	return fmt.Sprintf("DDL of the shards %s: %s", what, short(r.what.Text, 1000))
}

// short keeps the beginning of a text.
func short(text string, most int) string {
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// byHand says how to go on.
func (r *ddlRun) byHand() string {
	return fmt.Sprintf("on the target do what it does (its search_path was %s), then there: INSERT INTO cdc.ddl_done VALUES (%s, %s); it goes on by itself",
		r.d.SearchPath, literal(r.cfg.Subscription), r.tx.CSN)
}

func (r *ddlRun) blocked(why string, err error) error {
	return &apply.Blocked{CSN: r.tx.CSN, Problem: r.problem(why), Err: err, Try: r.byHand()}
}

// take brings the ledger forward, and runs the statement if this is its place.
func (r *ddlRun) take(ctx context.Context, shard pipeline.ShardID, skipped bool) error {
	if err := r.decide(ctx); err != nil {
		return err
	}
	e := r.ddl.next(r.what.Key, shard)
	if e == nil {
		e = r.ddl.add(r.what.Key, r.tx.CSN)
		e.script = script{r.what.SQL, r.d.SearchPath, r.d.Settings}
		if r.refusal != nil {
			e.script.sql = r.what.Text
		}
	}
	e.shards[shard] = true
	switch {
	case e.executed: // at another shard's place
	case r.what.Last && len(e.shards) < r.cfg.Shards && !skipped:
		e.outcome, e.effects = outcomeWaits, r.what.Effects
		if err := r.relax(ctx); err != nil {
			return err
		}
	default:
		outcome, err := r.execute(ctx, e, skipped)
		if err != nil {
			return err
		}
		e.executed, e.outcome = true, outcome
		if outcome != outcomeLeftOut && outcome != outcomeTarget && outcome != outcomeNotOurs {
			e.effects = r.what.Effects
		}
	}
	return r.writeDDL(ctx, e)
}

// execute runs the statement, or says why it does not.
func (r *ddlRun) execute(ctx context.Context, e *ddlEntry, skipped bool) (outcome string, err error) {
	if skipped {
		return outcomeLeftOut, nil
	}
	done, err := r.query(ctx, "SELECT 1 FROM cdc.ddl_done WHERE subscription = $1 AND csn = $2", r.cfg.Subscription, r.tx.CSN.String())
	if err != nil {
		return "", fmt.Errorf("read cdc.ddl_done: %w", err)
	}
	switch {
	case len(done) > 0:
		return outcomeByHand, nil
	case r.refusal != nil:
		return "", r.blocked("cannot be run here by itself, because "+r.refusal.Why, nil)
	case r.cfg.DDL == DDLStop:
		return "", r.blocked("is to be run by hand", nil)
	case r.cfg.mapped:
		return "", r.blocked("cannot be run here by itself, because tables have other names here", nil)
	}
	if outcome, err := r.partition(ctx); outcome != "" || err != nil {
		return outcome, err
	}
	if err := errors.Join(r.between(), r.values(ctx)); err != nil {
		return "", err
	}
	if r.what.SQL == "" {
		return outcomeNotOurs, nil
	}
	if err := r.settle(ctx, e); err != nil {
		return "", err
	}
	if r.what.Apart {
		if outcome, err := r.apart(ctx); outcome != "" || err != nil {
			return outcome, err
		}
	}
	return r.run(ctx, script{r.what.SQL, r.d.SearchPath, r.d.Settings}, r.what.Single)
}

// run runs a statement inside of the target transaction.
func (r *ddlRun) run(ctx context.Context, sc script, single bool) (outcome string, err error) {
	// Deferred triggers of rows that came before must not be in the way.
	if err := r.exec(ctx, "SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT cdc_ddl"); err != nil {
		return "", err
	}
	set, reset := sc.settingsSQL()
	if err := r.exec(ctx, set); err != nil {
		return "", r.blocked("needs settings that the target does not have", err)
	}
	err = r.exec(ctx, sc.sql)
	switch {
	case err == nil:
		return outcomeRan, r.exec(ctx, reset+"RELEASE cdc_ddl; SET CONSTRAINTS ALL DEFERRED")
	case single && already(err, sc.sql):
		return outcomeWas, r.exec(ctx, "ROLLBACK TO cdc_ddl; RELEASE cdc_ddl; SET CONSTRAINTS ALL DEFERRED")
	case single && missing(err):
		failed := err
		if err := r.exec(ctx, "ROLLBACK TO cdc_ddl; RELEASE cdc_ddl; SET CONSTRAINTS ALL DEFERRED"); err != nil {
			return "", err
		}
		renamed, err := r.renamed(ctx)
		if err != nil || !renamed {
			return "", errors.Join(failed, err)
		}
		return outcomeWas, nil
	}
	return "", err
}

// renamed says that the statement is a rename, and that the target has the new name.
func (r *ddlRun) renamed(ctx context.Context) (bool, error) {
	if len(r.what.Effects) != 1 {
		return false, nil
	}
	var rows [][][]byte
	var err error
	switch e := r.what.Effects[0]; e.Kind {
	case ddl.RenameColumn:
		rows, err = r.query(ctx, "SELECT 1 FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass($1) AND attname = $2 AND NOT attisdropped", e.Table.String(), e.To)
	case ddl.RenameTable:
		rows, err = r.query(ctx, "SELECT 1 WHERE pg_catalog.to_regclass($1) IS NOT NULL", e.Into.String())
	}
	return len(rows) > 0, err
}

// exec runs statements of which only success counts.
func (s *session) exec(ctx context.Context, sql string) error {
	defer s.waits()()
	_, err := s.conn.Exec(ctx, sql).ReadAll()
	return err
}

// settingsSQL are the statement's settings, and how those of the session come back.
func (sc script) settingsSQL() (set, reset string) {
	var b, back strings.Builder
	to := func(b *strings.Builder, name, value string) {
		fmt.Fprintf(b, "SELECT pg_catalog.set_config(%s, %s, true);", literal(name), literal(value))
	}
	to(&b, "search_path", sc.searchPath)
	to(&back, "search_path", "")
	for _, pinned := range textform.Settings() {
		if value, ok := sc.settings[pinned[0]]; ok {
			to(&b, pinned[0], value)
			to(&back, pinned[0], pinned[1])
		}
	}
	return b.String(), back.String()
}

// already says that an error means that the statement has nothing left to do.
func already(err error, sql string) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	word := strings.ToUpper(strings.Join(strings.Fields(sql), " "))
	if strings.Contains(word, " RENAME ") {
		return false // the new name may be another thing's
	}
	switch pg.Code {
	case "42701", "42P07", "42710", "42P06": // duplicate column, table or index, object, schema
		return true
	case "42703", "42P01", "42704": // undefined column, table, object: it was to be dropped
		return strings.HasPrefix(word, "DROP ") || strings.HasPrefix(word, "ALTER TABLE ") && strings.Contains(word, " DROP ") && pg.Code != "42P01"
	}
	return false
}

// missing says that what the statement is about is not there.
func missing(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "42703" || pg.Code == "42P01" || pg.Code == "42704")
}

// apart runs the statement on a connection of its own, so that rows of the same target transaction may use what it adds.
// What this target transaction made itself is not seen there: then it runs here, and PostgreSQL lets it be used. Should
// the target transaction fail, the value stays, and nobody uses it until it is repeated.
func (r *ddlRun) apart(ctx context.Context) (outcome string, err error) {
	defer r.waits()()
	conn, err := pgconn.ConnectConfig(ctx, r.target.conn)
	if err != nil {
		return "", fmt.Errorf("connect to the target: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	sc := script{r.what.SQL, r.d.SearchPath, r.d.Settings}
	set, _ := sc.settingsSQL()
	_, err = conn.Exec(ctx, "BEGIN; SET LOCAL lock_timeout = '5s';"+set).ReadAll()
	if err == nil {
		_, err = conn.Exec(ctx, sc.sql).ReadAll()
	}
	if err == nil {
		_, err = conn.Exec(ctx, "COMMIT").ReadAll()
	}
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return outcomeRan, nil
	case already(err, sc.sql):
		return outcomeWas, nil
	case errors.As(err, &pg) && (pg.Code == "42704" || pg.Code == "55P03"):
		return "", nil
	}
	return "", err
}

// altersTables says whether a transaction has DDL for this target. It is not asked of rows that can be read only once.
func (s *session) altersTables(tx *pipeline.Transaction) (alters bool, err error) {
	for _, f := range tx.Fragments {
		if !f.Ops.Has(pipeline.Message) || s.cfg.DDL == DDLIgnore {
			continue
		}
		err := f.Walk(func(c *pipeline.Change) error {
			_, ok, err := mark.DDLOf(c)
			alters = alters || ok
			return err
		})
		if err != nil {
			return false, malformed(err)
		}
	}
	return alters, nil
}

// altering sends a transaction that changes tables and would need to be known whole before its first change: what its
// tables look like is not known before.
func (w *writer) altering(tx *pipeline.Transaction) error {
	if truncates(tx) {
		return &apply.Blocked{
			CSN: tx.CSN, Problem: "the transaction has DDL and a TRUNCATE, and the tables that this empties may be of its own",
			Try: "do on the target what it does, then cdcctl skip",
		}
	}
	w.order = order{}
	return w.changes(tx, nil, moves.InOrder)
}
