package verify

import (
	"strings"
	"testing"
	"time"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause/pausetest"
)

const patience = time.Minute

// TestCopying: a table that is being copied is not compared, whoever says that it is: its job, or the target. Its missing rows
// are neither reported nor repaired. The other tables are compared.
func TestCopying(t *testing.T) {
	p := newPlace(t, "CREATE TABLE old (id int PRIMARY KEY); CREATE TABLE fresh (id int PRIMARY KEY); CREATE TABLE listed (id int PRIMARY KEY); CREATE TABLE busy (id int PRIMARY KEY)")
	p.start()
	p.sql(0, "INSERT INTO old VALUES (1)", "INSERT INTO fresh VALUES (1)", "INSERT INTO listed VALUES (1)")
	p.applied()
	p.sql(target, "DELETE FROM old; DELETE FROM fresh; DELETE FROM listed")
	p.sql(target, "INSERT INTO cdc.copying (subscription, table_schema, table_name, job, keyed, merge, arrived) VALUES ('"+p.sub.Name+"', 'public', 'listed', 'x', true, false, '{}')")

	writer := p.connect(0) // the copy waits for it
	_, err := writer.Exec(p.ctx, "BEGIN; INSERT INTO busy VALUES (1)")
	p.must(err)
	copies, err := control.OpenCopies(p.ctx, p.bus.JS, 1)
	p.must(err)
	job := control.NewCopyJob(control.CopyResync, []control.CopyTableName{{Schema: "public", Name: "fresh"}}, "merge", "ann@host")
	p.must(copies.PutJob(p.ctx, p.sub.Name, job))
	for _, repair := range []bool{false, true} {
		r := p.verify(func(c *Config) { c.Repair = repair })
		if r.Verdict == Equal {
			t.Errorf("repair %v: the verdict is %s", repair, r.Verdict)
		}
		lines := text(r)
		for _, want := range []string{
			"public.fresh undecided problem: its rows are being copied (resync, asked for by ann@host), so the target has not all of them yet. Try: cdcctl status " + p.sub.Name + " --watch",
			"public.listed undecided problem: its rows are being copied (the end is not applied yet)",
			"rows 0/0 differing 0 missing 0", "public.busy equal", "public.old ",
		} {
			if !strings.Contains(lines, want) {
				t.Errorf("repair %v: no %q in\n%s", repair, want, lines)
			}
		}
		if old := r.Tables[3]; old.Missing != 1 || repair && old.Repaired != 1 {
			t.Errorf("repair %v: %+v", repair, old)
		}
	}
	_, err = writer.Exec(p.ctx, "COMMIT")
	p.must(err)
	p.sql(target, "DELETE FROM cdc.copying WHERE table_name = 'listed'; INSERT INTO listed VALUES (1)")
	pausetest.Within(patience, t, "the copy is done", func() bool {
		j, err := copies.Job(p.ctx, p.sub.Name, job.ID)
		p.must(err)
		return j.State == control.CopyDone
	})
	p.applied()
	if r := p.verify(); r.Verdict != Equal {
		t.Errorf("afterwards: %s\n%s", r.Verdict, text(r))
	}
}

// TestCopyBeganMeanwhile: a copy that begins and ends while tables are compared makes their result worth nothing.
func TestCopyBeganMeanwhile(t *testing.T) {
	p := newPlace(t, "CREATE TABLE t (id int PRIMARY KEY)")
	p.start()
	early, err := openCopies(p.ctx, &Config{Bus: p.bus, Subscription: p.sub, Target: p.sub.Targets[0]})
	p.must(err)
	job := control.NewCopyJob(control.CopyResync, []control.CopyTableName{{Schema: "public", Name: "t"}}, "truncate", "ann@host")
	p.must(early.kv.PutJob(p.ctx, p.sub.Name, job))
	pausetest.Within(patience, t, "the copy is done", func() bool {
		j, err := early.kv.Job(p.ctx, p.sub.Name, job.ID)
		p.must(err)
		return j.State == control.CopyDone
	})
	p.applied()
	cfg := p.config()
	c, err := connect(p.ctx, p.sub, &cfg.Target)
	p.must(err)
	defer c.close()
	later, err := openCopies(p.ctx, &cfg)
	p.must(err)
	for began, copies := range map[string]*copies{"before the copy": early, "after it": later} {
		found, err := copies.look(p.ctx, &cfg, c.target)
		p.must(err)
		if got := found.of(tableName{"public", "t"}) != ""; got != (copies != later) {
			t.Errorf("a comparison that began %s: copied %v", began, got)
		}
	}
}
