package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline"
	"shardcdc/pipeline/await"
	"shardcdc/pipeline/control"
)

// Limits of a round.
const (
	pollEvery   = 5 * time.Millisecond
	stillAfter  = 10 * time.Second // how long a target that is behind is waited for, once all is published
	clockMargin = time.Second      // by which a shard's clock may be set back while a commit becomes visible
)

// judge decides about suspects. One goroutine uses it.
type judge struct {
	bus       *control.Bus
	sub       *control.Subscription
	c         *cluster
	stream    *stream
	witnesses []*witness
	timeout   time.Duration // of everything being published
	still     time.Duration // see stillAfter
	// thorough: equality at first sight is no answer; every view has to follow from the stream. For tests of the proof.
	thorough bool
}

func newJudge(ctx context.Context, cfg *Config) (*judge, error) {
	j := &judge{bus: cfg.Bus, sub: cfg.Subscription, timeout: cfg.Timeout, still: cfg.still}
	var err error
	if j.stream, err = openStream(ctx, cfg.Bus.JS, cfg.Subscription.Name); err != nil {
		return nil, err
	}
	if j.c, err = connect(ctx, cfg.Subscription, &cfg.Target); err != nil {
		return nil, err
	}
	for range cfg.Subscription.Shards {
		j.witnesses = append(j.witnesses, newWitness())
	}
	// So that the first round knows of each transaction whether it began before.
	if _, err = j.samples(ctx); err != nil {
		j.c.close()
		return nil, err
	}
	return j, nil
}

// position is how far the target is.
type position struct {
	csn pipeline.CSN
	seq pipeline.Seq
}

// round is one look at a set of suspects.
type round struct {
	*judge
	g        *suspects
	keep     bool // the source's values, for repair
	first    position
	samples  []*sample
	snapshot []*visibility
	views    int // of the target

	after   pipeline.Seq // where the stream is read from
	upTo    pipeline.Seq // and to
	reached pipeline.CSN // of the target, at the last view
	wanted  pipeline.CSN // of all that was committed when the source was read
	lost    []string     // what may have been changed by transactions that have left the stream
}

// round gives every suspect an answer.
func (j *judge) round(ctx context.Context, list []*suspect) (*round, error) {
	r := &round{judge: j, g: group(list)}
	r.g.each((*suspect).ask)
	first, err := j.c.progress(ctx, j.sub.Name, j.stream.id, "")
	if err != nil {
		return nil, err
	}
	if err := r.readSource(ctx, first); err != nil {
		return nil, err
	}
	published := make(chan error, 1)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	publishing, cancel := context.WithTimeoutCause(ctx, j.timeout, fmt.Errorf("not published within %s", j.timeout))
	defer cancel()
	var end *unitEnd
	waiting.Go(func() {
		var err error
		end, err = r.barrier(publishing)
		published <- err
	})
	left, err := r.watchTarget(ctx, published, func() pipeline.CSN { return end.csn })
	if err != nil {
		return r, err
	}
	if left > 0 {
		r.upTo = max(r.upTo, end.seq)
		err = r.decide(ctx)
	}
	return r, err
}

// progress reads how far the target is; suffix may lock the row.
func (c *cluster) progress(ctx context.Context, subscription, streamID, suffix string) (p position, err error) {
	rows, err := c.target.query(ctx, "SELECT stream_id, csn, stream_seq FROM cdc.progress WHERE subscription = $1"+suffix, subscription)
	var pg *pgconn.PgError
	absent := errors.As(err, &pg) && pg.Code == "42P01"
	if err != nil && !absent {
		return p, fmt.Errorf("how far the target is: %w", err)
	}
	if len(rows) != 1 {
		return p, fmt.Errorf("%s was never fed from subscription %s. Try: cdcd apply", c.target.name, subscription)
	}
	if id := string(rows[0][0]); id != "" && id != streamID {
		return p, fmt.Errorf("%s was fed from another stream (%s) than there is now (%s). Try: drop the subscription and create it again", c.target.name, id, streamID)
	}
	if p.csn, err = pipeline.ParseCSN(string(rows[0][1])); err != nil {
		return p, err
	}
	var seq pipeline.CSN // a decimal number, too
	seq, err = pipeline.ParseCSN(string(rows[0][2]))
	p.seq = pipeline.Seq(seq)
	return p, err
}

// readSource takes a snapshot of every shard and reads the suspects' rows. The target was at first before that.
func (r *round) readSource(ctx context.Context, first position) (err error) {
	r.first = first
	if r.samples, err = r.judge.samples(ctx); err != nil {
		return err
	}
	r.snapshot = make([]*visibility, len(r.c.shards))
	var mu sync.Mutex
	err = r.c.eachShard(ctx, func(ctx context.Context, i int, d *database) error {
		return d.transaction(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", func() error {
			rows, err := d.query(ctx, "SELECT pg_catalog.pg_current_snapshot()::text")
			if err != nil {
				return err
			}
			if r.snapshot[i], err = parseSnapshot(string(rows[0][0])); err != nil {
				return err
			}
			for _, p := range r.g.tables {
				err := fetch(ctx, d, p, p.shards[i], r.g.by[p.tableName], func(s *suspect, row []value) {
					mu.Lock()
					defer mu.Unlock()
					s.source.add(row, i, r.keep)
				})
				if err != nil {
					return fmt.Errorf("read table %s: %w", p, err)
				}
			}
			return nil
		})
	})
	return err
}

// transaction runs fn in one, and ends it.
func (d *database) transaction(ctx context.Context, begin string, fn func() error) error {
	if err := d.exec(ctx, begin); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return errors.Join(err, d.exec(context.WithoutCancel(ctx), "ROLLBACK"))
	}
	return d.exec(ctx, "COMMIT")
}

func (j *judge) samples(ctx context.Context) ([]*sample, error) {
	all := make([]*sample, len(j.c.shards))
	err := j.c.eachShard(ctx, func(ctx context.Context, i int, d *database) (err error) {
		all[i], err = j.witnesses[i].sample(ctx, d)
		return err
	})
	return all, err
}

// barrier waits until everything that is committed now is in the stream, and finds the end of that.
func (r *round) barrier(ctx context.Context) (*unitEnd, error) {
	marks, err := await.Marks(ctx, r.sub)
	if err != nil {
		return nil, err
	}
	if _, err := await.Published(ctx, r.bus, r.sub, marks); err != nil {
		return nil, err
	}
	return r.stream.end(ctx)
}

// watchTarget looks at the target again and again while it passes the moment at which the source was read, until it has
// passed it, or does not move on. Left are the suspects that never were equal.
func (r *round) watchTarget(ctx context.Context, published <-chan error, wanted func() pipeline.CSN) (left int, err error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var giveUp <-chan time.Time
	done := false
	for {
		if left, err = r.look(ctx); err != nil {
			return left, err
		}
		if left == 0 || done && r.reached >= r.wanted {
			return left, nil
		}
		select {
		case err := <-published:
			if err != nil {
				return left, err
			}
			done, r.wanted, published = true, wanted(), nil
			giveUp = time.After(r.still)
		case <-giveUp:
			return left, nil
		case <-tick.C:
		case <-ctx.Done():
			return left, ctx.Err()
		}
	}
}

// look reads the suspects' rows on the target, if it has moved. Left are those that never were equal.
func (r *round) look(ctx context.Context) (left int, err error) {
	err = r.c.target.transaction(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", func() error {
		at, err := r.c.progress(ctx, r.sub.Name, r.stream.id, "")
		if err != nil || r.views > 0 && at.csn == r.reached {
			return err
		}
		return r.readTarget(ctx, at)
	})
	r.g.each(func(s *suspect) {
		if s.answer == undecided {
			left++
		}
	})
	return left, err
}

// readTarget adds a view to every suspect. The target is at a position, and stays there.
func (r *round) readTarget(ctx context.Context, at position) error {
	r.views++
	r.reached, r.upTo = at.csn, max(r.upTo, at.seq)
	for _, p := range r.g.tables {
		ids := map[string]*suspect{}
		for id, s := range r.g.by[p.tableName] {
			if s.answer == undecided {
				ids[id] = s
				s.views = append(s.views, view{csn: at.csn})
			}
		}
		err := fetch(ctx, r.c.target, p, p.target, ids, func(s *suspect, row []value) {
			s.views[len(s.views)-1].side.add(row, targetSide, false)
		})
		if err != nil {
			return fmt.Errorf("read table %s: %w", p, err)
		}
		for _, s := range ids {
			if !r.thorough && s.views[len(s.views)-1].side.equal(&s.source) {
				s.answer = equal
			}
		}
	}
	return nil
}

// targetSide stands for a shard's number.
const targetSide = -1

// decide reads in the stream what was changed between what the source shows and what the target showed.
func (r *round) decide(ctx context.Context) error {
	if err := r.lookBack(ctx); err != nil {
		return err
	}
	reader := newTouchReader(r)
	if err := r.stream.read(ctx, r.after, r.upTo, reader.fragment); err != nil {
		return err
	}
	r.g.each(r.conclude)
	return nil
}

// conclude finds a view of which the stream proves that the target should have had the source's rows.
func (r *round) conclude(s *suspect) {
	if s.answer == equal {
		return
	}
	for _, v := range slices.Backward(s.views) {
		if s.undone(v.csn) != nil || len(r.lost) > 0 {
			continue
		}
		if s.last = v; !v.side.equal(&s.source) {
			s.answer = different
			return
		}
		s.answer = equal // only a thorough judge has not seen it before
	}
	if s.answer == undecided {
		s.last = s.views[len(s.views)-1]
		s.reason = r.why(s)
	}
}

// undone is a transaction that only one of the two sides shows, with the target at csn; nil: there is none.
func (s *suspect) undone(csn pipeline.CSN) *touch {
	for i := range s.touches {
		if t := &s.touches[i]; t.visible != (t.csn <= csn) {
			return t
		}
	}
	return nil
}

// why tells a person what keeps a suspect open.
func (r *round) why(s *suspect) string {
	t := s.undone(s.last.csn)
	if t == nil {
		return r.lost[0]
	}
	if !t.visible {
		for _, p := range r.samples[t.shard].prepared {
			if p.xid == t.xid {
				return fmt.Sprintf("prepared transaction %q is committed and applied, and in doubt on shard %s. Try: COMMIT PREPARED %s there", p.gid, r.sub.Shards[t.shard].Name, literal(p.gid))
			}
		}
	}
	if r.reached < r.wanted {
		return fmt.Sprintf("the target is behind: it is at csn %s of %s. Try: cdcctl status %s, which says why", r.reached, r.wanted, r.sub.Name)
	}
	return "it changes all the time"
}
