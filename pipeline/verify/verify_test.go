package verify

import (
	"context"
	"testing"
	"time"

	"shardcdc/pipeline/bank"
)

// TestUnderLoad: while cross-shard traffic runs, nothing is ever called different.
func TestUnderLoad(t *testing.T) {
	p := newPlace(t, "SELECT 1")
	for _, dsn := range p.dsns {
		p.must(bank.CreateTables(p.ctx, dsn))
	}
	p.start()
	b := bank.New(bank.Config{Shards: p.dsns[:shards], Accounts: 100, Seed: seed(t), Markers: 20 * time.Millisecond, AbandonEvery: 50, InDoubt: 300 * time.Millisecond})
	p.must(b.Load(p.ctx))
	traffic, stop := context.WithCancel(p.ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- b.Run(traffic) }()
	for began := time.Now(); time.Since(began) < 8*time.Second; {
		at := time.Now()
		r := p.verify()
		t.Logf("%s: %s\n%s", time.Since(at), r.Verdict, text(r))
		if r.Verdict == Differs {
			t.Fatalf("a false difference")
		}
	}
	stop()
	p.must(<-ended)
	p.applied()
	if r := p.verify(); r.Verdict != Equal {
		t.Errorf("%s\n%s", r.Verdict, text(r))
	}
	t.Logf("%+v", b.Stats())
}

// TestProof: of every row that the stream says is the same in the source's snapshot and at a position of the target, both
// sides have the same, whatever the moment; and almost every row has such positions. Rows in doubt, rows to come and rows
// without a key are among them.
func TestProof(t *testing.T) {
	t.Run("superuser", func(t *testing.T) { testProof(t, func(*place, *Config) {}) })
	t.Run("reader", func(t *testing.T) { testProof(t, (*place).asReader) })
}

func testProof(t *testing.T, as func(*place, *Config)) {
	p := newPlace(t, "SELECT 1")
	for _, dsn := range p.dsns {
		p.must(bank.CreateTables(p.ctx, dsn))
	}
	p.start()
	b := bank.New(bank.Config{Shards: p.dsns[:shards], Accounts: 200, Seed: seed(t), Markers: 20 * time.Millisecond, AbandonEvery: 10, InDoubt: 500 * time.Millisecond})
	p.must(b.Load(p.ctx))
	p.applied()
	traffic, stop := context.WithCancel(p.ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- b.Run(traffic) }()
	cfg := p.config()
	as(p, &cfg)
	cfg.setDefaults()
	j, err := newJudge(p.ctx, &cfg)
	p.must(err)
	defer j.c.close()
	j.thorough = true
	v := &verifier{cfg: cfg}
	plans := map[string]*plan{}
	for _, name := range bank.Tables {
		plans[name], err = v.plan(p.ctx, j.c, tableName{"public", name})
		p.must(err)
	}
	var proved, open, views, hidden int
	reasons := map[string]int{}
	for range 25 {
		list := everyRow(p, plans)
		_, err := j.round(p.ctx, list)
		p.must(err)
		for _, s := range list {
			views += len(s.views)
			for _, touch := range s.touches {
				if !touch.visible && touch.csn <= s.views[0].csn {
					hidden++
				}
			}
			switch s.answer {
			case equal:
				proved++
			case undecided:
				open++
				reasons[s.reason]++
			default:
				t.Fatalf("table %s %s: source %+v, target %+v at csn %s, touched %+v", s.plan, s.id, s.source, s.last.side, s.last.csn, s.touches)
			}
		}
	}
	stop()
	p.must(<-ended)
	t.Logf("%d rows proved equal, %d open, %d views; %d times what the target had was invisible on its shard", proved, open, views, hidden)
	t.Logf("%v", reasons)
	if open > proved/10 || hidden == 0 {
		t.Error("the test has no power")
	}
}

// everyRow makes suspects of the target's rows, and of rows that may come.
func everyRow(p *place, plans map[string]*plan) (list []*suspect) {
	p.Helper()
	add := func(sql string, pl *plan) {
		rows, err := p.conns[target].Query(p.ctx, sql)
		p.must(err)
		for rows.Next() {
			var texts []string
			p.must(rows.Scan(&texts))
			s := &suspect{plan: pl}
			for _, text := range texts {
				s.key = append(s.key, value{text: text})
			}
			if s.id = recordText(s.key); pl.key == nil {
				s.id, s.key = texts[0], nil
			}
			list = append(list, s)
		}
		p.must(rows.Err())
	}
	add("SELECT ARRAY[id::text] FROM accounts", plans["accounts"])
	add("SELECT ARRAY[id::text] FROM (SELECT id FROM history ORDER BY id DESC LIMIT 300) h UNION ALL SELECT ARRAY[(n*16+i)::text] FROM generate_series((SELECT max(transfer) FROM history)+1, (SELECT max(transfer) FROM history)+40) n, generate_series(0,2) i", plans["history"])
	add("SELECT ARRAY[id::text, shard::text] FROM (SELECT * FROM markers ORDER BY id DESC LIMIT 100) m", plans["markers"])
	add("SELECT ARRAY[id::text] FROM notes", plans["notes"])
	add("SELECT ARRAY[md5(ROW(entry, what, at)::text)] FROM (SELECT * FROM journal ORDER BY at DESC LIMIT 200) j", plans["journal"])
	return list
}
