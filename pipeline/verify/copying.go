package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/control"
)

// copies knows which tables are being copied, or were during the comparison: rows that are missing there say nothing. A job
// that was over when the comparison began, with its end applied on the target, is of no concern.
type copies struct {
	kv   *control.Copies
	over map[string]bool // jobs, when the comparison began
}

// copied are tables that cannot be compared, with the reason.
type copied struct {
	all    string // of every table: what an initial copy that nobody has begun will copy is not known
	tables map[tableName]string
}

func (c *copied) of(n tableName) string {
	if c.all != "" {
		return c.all
	}
	return c.tables[n]
}

func openCopies(ctx context.Context, cfg *Config) (*copies, error) {
	kv, err := control.OpenCopies(ctx, cfg.Bus.JS, cfg.Bus.Replicas)
	if err != nil {
		return nil, err
	}
	c := &copies{kv: kv, over: map[string]bool{}}
	jobs, err := kv.Jobs(ctx, cfg.Subscription.Name)
	if err != nil {
		return nil, err
	}
	st, err := control.AskApply(ctx, cfg.Bus.NC, cfg.Subscription.Name, cfg.Target.Name)
	if err != nil && !errors.Is(err, control.ErrNobody) {
		return nil, err
	}
	for _, j := range jobs {
		c.over[j.ID] = j.State.Ended() && (err != nil || st.AppliedCSN >= j.EndCSN) // nobody answers: see the target's own list
	}
	return c, nil
}

// look asks the jobs, and the target, which has its own list of what is incomplete.
func (c *copies) look(ctx context.Context, cfg *Config, target *database) (copied, error) {
	out := copied{tables: map[tableName]string{}}
	jobs, err := c.kv.Jobs(ctx, cfg.Subscription.Name)
	if err != nil {
		return out, err
	}
	for _, j := range jobs {
		if c.over[j.ID] || j.State == control.CopyCancelled || j.State == control.CopyFailed {
			continue
		}
		why := c.why(cfg, fmt.Sprintf("%s, asked for by %s", j.Kind, j.By))
		if j.Kind == control.CopyInitial && len(j.Tables) == 0 {
			out.all = why
		}
		for _, t := range j.Tables {
			out.tables[tableName{t.Schema, t.Name}] = why
		}
	}
	return out, c.listed(ctx, cfg, target, &out)
}

func (c *copies) why(cfg *Config, what string) string {
	return fmt.Sprintf("its rows are being copied (%s), so the target has not all of them yet. Try: cdcctl status %s --watch until that is done, then compare again", what, cfg.Subscription.Name)
}

// listed adds what the target has in cdc.copying.
func (c *copies) listed(ctx context.Context, cfg *Config, target *database, out *copied) error {
	var there bool
	if err := target.conn.QueryRow(ctx, "SELECT pg_catalog.to_regclass('cdc.copying') IS NOT NULL").Scan(&there); err != nil || !there {
		return err
	}
	rows, err := target.conn.Query(ctx, "SELECT table_schema, table_name FROM cdc.copying WHERE subscription = $1", cfg.Subscription.Name)
	if err != nil {
		return fmt.Errorf("look which tables are being copied: %w", err)
	}
	var n tableName
	_, err = pgx.ForEachRow(rows, []any{&n.schema, &n.name}, func() error {
		if out.tables[n] == "" {
			out.tables[n] = c.why(cfg, "the end is not applied yet")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look which tables are being copied: %w. Try: GRANT SELECT ON cdc.copying TO the role of the target's DSN", err)
	}
	return nil
}

// leaveOut takes the tables that are being copied out of what was found.
func (v *verifier) leaveOut(ctx context.Context, target *database) error {
	copied, err := v.copies.look(ctx, &v.cfg, target)
	if err != nil {
		return err
	}
	for i, n := range v.names {
		if why := copied.of(n); why != "" && !v.report.Tables[i].Copying {
			v.report.Tables[i].leaveOut(why)
		}
	}
	v.suspects = slices.DeleteFunc(v.suspects, func(s *suspect) bool { return copied.of(s.plan.tableName) != "" })
	return nil
}

// leaveOut forgets what was found.
func (t *TableReport) leaveOut(why string) {
	*t = TableReport{Schema: t.Schema, Table: t.Table, Key: t.Key, Copying: true, Problem: why, Repaired: t.Repaired, Seconds: t.Seconds}
}
