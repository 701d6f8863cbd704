package mysql

import (
	"context"
	"errors"
	"strings"
	"time"

	"shardcdc/apply"
	"shardcdc/apply/postgres/ddl"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// skip leaves a transaction out, and writes down what is missing now. Rows that cannot be read are a reason to skip, so
// they are no error here. The marks of a copy count all the same: else what comes later would not be understood.
func (w *writer) skip(tx *pipeline.Transaction, skip apply.Skip) error {
	if err := w.flush(); err != nil {
		return err
	}
	var missing apply.Missing
	for _, f := range tx.Fragments {
		err := f.Walk(func(c *pipeline.Change) error {
			missing.Count(c)
			m, ok, err := mark.CopyOf(c)
			if ok && err == nil {
				err = ours(w.s.copyMark(w.ctx, tx.CSN, f.Shard, &m, true))
			}
			return err
		})
		var read *apply.ReadError
		var sent *sendError
		if errors.As(err, &read) || errors.As(err, &sent) {
			return err
		}
		if err != nil {
			missing.Unreadable(err)
		}
	}
	_, err := w.s.exec(w.ctx, "INSERT INTO cdc_skipped (subscription, csn, reason, skipped_by, asked, changes, passed) VALUES (?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(6))",
		w.s.cfg.Subscription, uint64(tx.CSN), skip.Reason, skip.By, skip.At.UTC().Format("2006-01-02 15:04:05.000000"), missing.String())
	return classify(wrap("write cdc_skipped", err), &apply.Blocked{CSN: tx.CSN})
}

// Skipped lists what was left out on the target, the oldest first.
func (t *Target) Skipped(ctx context.Context) (list []apply.Skipped, err error) {
	s, err := t.open(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close(ctx)
	err = s.query(ctx, `SELECT csn, reason, skipped_by, changes, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', asked), TIMESTAMPDIFF(MICROSECOND, '1970-01-01', passed)
		FROM cdc_skipped WHERE subscription = ? ORDER BY csn, passed`, func(scan func(...any) error) error {
		var k apply.Skipped
		var csn uint64
		var asked, passed int64
		err := scan(&csn, &k.Reason, &k.By, &k.Changes, &asked, &passed)
		k.CSN, k.At, k.Passed = pipeline.CSN(csn), time.UnixMicro(asked).UTC(), time.UnixMicro(passed).UTC()
		list = append(list, k)
		return err
	}, t.cfg.Subscription)
	if isNumber(err, erNoTable) {
		return nil, nil
	}
	return list, classify(wrap("read cdc_skipped", err), nil)
}

// ddl deals with a statement that changed tables on a shard. It does not run here.
func (s *session) ddl(d *mark.DDL) error {
	if s.cfg.DDL == Ignore {
		return nil
	}
	what, err := ddl.Read(d)
	var refusal *ddl.Refusal
	if err != nil && !errors.As(err, &refusal) {
		return err
	}
	text := d.Statement
	if refusal == nil {
		if what.SQL == "" {
			return nil
		}
		text = what.Text
	}
	if len(text) > ddlShown {
		text = strings.ToValidUTF8(text[:ddlShown], "") + "…"
	}
	return &apply.Blocked{
		Problem: "DDL of the shards: " + text,
		Try: "change the target's table by hand as it does; then cdcctl skip " + s.cfg.Subscription + " with this CSN, if the transaction has no rows; or cdcctl alter-subscription " +
			s.cfg.Subscription + " --ddl ignore",
	}
}

// ddlShown is how much of a statement an error shows.
const ddlShown = 1000
