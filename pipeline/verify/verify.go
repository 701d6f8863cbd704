package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/dsn"
	"shardcdc/pipeline/format"
)

// Config of a comparison.
type Config struct {
	Bus          *control.Bus
	Subscription *control.Subscription
	Target       control.Target
	Choose       func(schema, table string) bool // which tables; nil: all that are published
	Sample       float64                         // percent of the rows that are compared; default 100
	Parallel     int                             // tables at a time, each with a session on every server; default 2
	Rounds       int                             // how often a row that changes is looked at before it is undecided; default 20
	Keys         int                             // how many rows of a table are reported one by one; default 20
	Timeout      time.Duration                   // of everything committed being published, and of the target standing still (at most 10 s); default 1 minute
	// Repair writes the source's rows over those that are known to differ; DryRun only says what it would do.
	Repair, DryRun bool
	// Repaired is told of rows that were written, when they are committed, also when the comparison fails later; nil: nobody.
	Repaired func(table string, rows int64)
	// Progress is told how far it is, from several goroutines but one at a time; nil: nobody.
	Progress func(Progress)

	seed      int64 // of the sample: other rows each time
	sliceRows int64
	still     time.Duration // after which a target that is behind is not waited for any more
}

// Progress is how far a comparison is.
type Progress struct {
	Table         string
	Rows          int64 // of the target that were compared
	RowsEstimated int64 // in all; the statistics may be old
	Suspects      int   // rows that were not equal at first sight
	Done          bool  // with the first sight of the table
	TablesDone    int
	Tables        int
}

// Validate lists everything that is wrong.
func (c *Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Subscription.Format != format.Internal {
		add("subscription %s has format %s, and only %s is applied to targets", c.Subscription.Name, c.Subscription.Format, format.Internal)
	}
	if kind := kindOf(c.Target.DSN); kind != dsn.PostgreSQL {
		add("target %s is of kind %s, and only targets on PostgreSQL are compared: values of others are kept in another form", c.Target.Name, kind)
	}
	if c.Sample <= 0 || c.Sample > 100 {
		add("sample %v: want more than 0 and at most 100 percent", c.Sample)
	}
	if c.Parallel < 1 || c.Rounds < 1 || c.Keys < 0 || c.Timeout <= 0 {
		add("parallel, rounds and timeout must be positive, keys must not be negative")
	}
	return errors.Join(errs...)
}

// kindOf looks into references, as far as they can be filled in here.
func kindOf(text string) dsn.Kind {
	if expanded, err := dsn.Expand(text, os.LookupEnv); err == nil {
		text = expanded
	}
	return dsn.KindOf(text)
}

func (c *Config) setDefaults() {
	c.Sample = cmp.Or(c.Sample, 100)
	c.Parallel = cmp.Or(c.Parallel, 2)
	c.Rounds = cmp.Or(c.Rounds, 20)
	c.Keys = cmp.Or(c.Keys, 20)
	c.Timeout = cmp.Or(c.Timeout, time.Minute)
	c.seed = cmp.Or(c.seed, rand.Int64())
	c.sliceRows = cmp.Or(c.sliceRows, sliceRows)
	c.still = cmp.Or(c.still, min(stillAfter, c.Timeout))
}

// verifier is one comparison.
type verifier struct {
	cfg    Config
	report *Report
	names  []tableName
	copies *copies
	shard  []map[tableName]bool // what each shard publishes

	mu       sync.Mutex
	done     int
	suspects []*suspect // of all tables
}

// Run compares. It reports what it found; an error means that it could not find out.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	v := &verifier{cfg: cfg, report: &Report{
		Subscription: cfg.Subscription.Name, Target: cfg.Target.Name, Began: time.Now().UTC(), SamplePct: cfg.Sample,
	}}
	if err := v.run(ctx); err != nil {
		return nil, fmt.Errorf("compare %s with target %s: %w", cfg.Subscription.Name, cfg.Target.Name, err)
	}
	v.report.Seconds = time.Since(v.report.Began).Seconds()
	return v.report, nil
}

func (v *verifier) run(ctx context.Context) error {
	j, err := newJudge(ctx, &v.cfg)
	if err != nil {
		return err
	}
	defer j.c.close()
	if v.copies, err = openCopies(ctx, &v.cfg); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return v.list(ctx, j.c) },
		func() error { return v.leaveOut(ctx, j.c.target) },
		func() error { return v.scanAll(ctx) },
		func() error { return v.decide(ctx, j) },
		func() error { return v.leaveOut(ctx, j.c.target) }, // what began meanwhile
		func() error { return v.repair(ctx, j) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	v.conclude()
	return nil
}

// list finds the tables.
func (v *verifier) list(ctx context.Context, c *cluster) error {
	v.shard = make([]map[tableName]bool, len(c.shards))
	err := c.eachShard(ctx, func(ctx context.Context, i int, d *database) error {
		names, err := published(ctx, d, v.cfg.Subscription.Shards[i].Publications)
		v.shard[i] = map[tableName]bool{}
		for _, n := range names {
			v.shard[i][n] = v.cfg.Choose == nil || v.cfg.Choose(n.schema, n.name)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, names := range v.shard {
		for n, chosen := range names {
			if chosen && !slices.Contains(v.names, n) {
				v.names = append(v.names, n)
			}
		}
	}
	slices.SortFunc(v.names, func(a, b tableName) int { return cmp.Or(cmp.Compare(a.schema, b.schema), cmp.Compare(a.name, b.name)) })
	if len(v.names) == 0 {
		return fmt.Errorf("no table is chosen. Try: cdcctl status %s, and --table schema.table", v.cfg.Subscription.Name)
	}
	for _, n := range v.names {
		v.report.Tables = append(v.report.Tables, &TableReport{Schema: n.schema, Table: n.name, Key: []string{}})
	}
	return nil
}

// scanAll looks at every table.
func (v *verifier) scanAll(ctx context.Context) error {
	work := make(chan int)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(work)
		for i := range v.names {
			select {
			case work <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range min(v.cfg.Parallel, len(v.names)) {
		group.Go(func() error {
			c, err := connect(ctx, v.cfg.Subscription, &v.cfg.Target)
			if err != nil {
				return err
			}
			defer c.close()
			for i := range work {
				if err := v.scan(ctx, c, v.names[i], v.report.Tables[i]); err != nil {
					return fmt.Errorf("table %s: %w", v.names[i], err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (v *verifier) scan(ctx context.Context, c *cluster, name tableName, report *TableReport) error {
	began := time.Now()
	if report.Copying {
		v.tell(&Progress{Table: name.String(), Done: true})
		return nil
	}
	p, err := v.plan(ctx, c, name)
	var un *unfit
	if errors.As(err, &un) {
		report.Problem = un.Error()
		v.tell(&Progress{Table: name.String(), Done: true})
		return nil
	}
	if err != nil {
		return err
	}
	report.Notes, report.Key = p.notes, p.names(p.key)
	var s *scan
	s = newScan(c, p, &v.cfg, report, func() {
		v.tell(&Progress{Table: name.String(), Rows: report.RowsTarget, RowsEstimated: p.rows, Suspects: len(s.suspects)})
	})
	if err := s.run(ctx); err != nil {
		return err
	}
	report.Seconds = time.Since(began).Seconds()
	if s.unexamined > 0 {
		report.Undecided += s.unexamined
		report.Notes = append(report.Notes, fmt.Sprintf("more than %d rows are not equal at first sight: %d rows were not looked at one by one, and count as undecided. Try: --repair, again and again, or fill the table anew", suspectsMax, s.unexamined))
	}
	v.mu.Lock()
	v.suspects = append(v.suspects, s.suspects...)
	v.mu.Unlock()
	v.tell(&Progress{Table: name.String(), Rows: report.RowsTarget, RowsEstimated: report.RowsTarget, Suspects: len(s.suspects), Done: true})
	return nil
}

func (v *verifier) plan(ctx context.Context, c *cluster, name tableName) (*plan, error) {
	if v.cfg.Subscription.Shape.Alters(name.schema, name.name) {
		return nil, &unfit{"the subscription's rules (--shape) decide what of it is in the stream, so the target's table is no copy of the shards'", "--table with the others, as in --table '-" + name.String() + "'"}
	}
	shards := make([]*described, len(c.shards))
	err := c.eachShard(ctx, func(ctx context.Context, i int, d *database) (err error) {
		shards[i], err = describePublished(ctx, d, name, v.cfg.Subscription.Shards[i].Publications)
		return err
	})
	if err != nil {
		return nil, err
	}
	target, err := describe(ctx, c.target, name)
	if err != nil {
		return nil, err
	}
	p, err := resolve(name, shards, target)
	if err != nil {
		return nil, err
	}
	for _, d := range c.shards {
		p.recode = p.recode || d.encoding != c.target.encoding
	}
	return p, nil
}

func (v *verifier) tell(p *Progress) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p.Done {
		v.done++
	}
	p.TablesDone, p.Tables = v.done, len(v.names)
	if v.cfg.Progress != nil {
		v.cfg.Progress(*p)
	}
}

// cellsMax bounds the memory of a round: hashes of so many values per side and view.
const cellsMax = 1 << 20

// batches cuts suspects into rounds.
func batches(list []*suspect) (all [][]*suspect) {
	from, cells := 0, 0
	for i, s := range list {
		cells += len(s.plan.columns) + 1
		if cells >= cellsMax {
			all = append(all, list[from:i+1])
			from, cells = i+1, 0
		}
	}
	if from < len(list) {
		all = append(all, list[from:])
	}
	return all
}

// decide judges all suspects, again and again while the stream says that they change.
func (v *verifier) decide(ctx context.Context, j *judge) error {
	for _, batch := range batches(v.suspects) {
		left := batch
		for n := 0; n < v.cfg.Rounds && len(left) > 0; n++ {
			r, err := j.round(ctx, left)
			if err != nil {
				return err
			}
			left = slices.DeleteFunc(slices.Clone(left), func(s *suspect) bool { return s.answer != undecided })
			if r.reached < r.wanted {
				break // the target does not move on
			}
		}
	}
	v.suspects = slices.DeleteFunc(v.suspects, func(s *suspect) bool { return s.answer == equal })
	slices.SortFunc(v.suspects, func(a, b *suspect) int {
		return cmp.Or(cmp.Compare(a.plan.schema, b.plan.schema), cmp.Compare(a.plan.name, b.plan.name), cmp.Compare(len(a.id), len(b.id)), cmp.Compare(a.id, b.id))
	})
	return nil
}

func (v *verifier) conclude() {
	byName := map[tableName]*TableReport{}
	for i, n := range v.names {
		byName[n] = v.report.Tables[i]
	}
	for _, s := range v.suspects {
		row := v.rowReport(s)
		byName[s.plan.tableName].count(&row, v.cfg.Keys)
		if s.action != "" && !v.cfg.DryRun {
			byName[s.plan.tableName].Repaired += s.weight()
		}
	}
	for _, t := range v.report.Tables {
		t.judge()
	}
	v.report.judge()
}
