package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"shardcdc/apply/schedule"
)

// Several groups at a time. While there is a backlog the worker cuts it into groups as always, and each becomes a flight:
//
//	              keys do not exclude it       everything is sent          all before are committed
//	planned ──────────────────────────► running ──────────► waiting ──────────────────────► turned ──► committed
//	   ▲                                   │ error              │ withdrawn: the first one       │
//	   └───────────────────────────────────┴────────────────────┘ needs a lock of it             ▼ error: ends the attempt
//
// Each runs on a lane, a connection of its own, in a goroutine of its own; whatever is not said to be theirs belongs to the
// goroutine that replays. The session that the attempt began with tells what groups touch, and applies what has to be alone, and
// everything while there is no backlog: then there are no lanes.
//
// Invariants:
//
//  1. Flights commit in the order of the stream: the turn of one is the commit of the one before. So a reader of the target sees
//     states of the source only, and what the target's compare-and-swap checks is always so.
//  2. Two flights that touch the same thing, by the keys, never run together (package schedule).
//  3. What is not in the keys (an index of which nothing is known, a lock escalated by the server) makes a flight fail, or wait for
//     one behind it; it never commits something wrong, since rows are checked one by one. A flight that fails before it is the
//     first one is rolled back and runs again as the first: its error may come from what was not committed yet. One that holds
//     what the first one waits for is withdrawn (see untie) and does the same. So the first one always gets through, or its error
//     is its own and ends the attempt; or two wait for each other on the target, which may end the first one (a deadlock): then the
//     attempt ends as well, and the next one begins without lanes.
//  4. Nothing that was given its turn is ever run again by the same attempt: whether it is committed, only Progress can tell.
//  5. What was behind a commit is shown in the order of commits.
//
// Memory: Config.QueueBytes, and twice as many groups as there are workers, of GroupBytes each or one larger unit.

// flights are the groups on their way.
type flights struct {
	r        *run
	ctx      context.Context // of the lanes
	stop     context.CancelFunc
	schedule *schedule.Schedule
	all      []*flight    // in the order of the stream; the first is the next to commit
	lanes    []Lane       // open, and not in use
	open     int          // in use or not
	grounded time.Time    // until then there are no new flights: the target refused a lane
	ended    chan *flight // from the flights' goroutines
	landing  bool         // in land
	tick     *time.Ticker // while there are flights: for untie
	running  sync.WaitGroup
	keys     []schedule.Key // scratch
}

// flight is a group on its way.
type flight struct {
	group Group
	more  []Unit   // without transactions, behind the group
	after Progress // behind them

	id        schedule.ID
	ready     bool            // as far as the schedule is concerned
	done      bool            // committed
	asFirst   bool            // it runs when it is the first one only
	wasFirst  bool            // it was when it started
	inAir     bool            // it has a goroutine
	looks     int             // at it being the first one, so far
	before    <-chan struct{} // closed when the one before is committed
	committed chan struct{}   // closed when this one is
	cancel    context.CancelFunc

	stage atomic.Int32
	// Set by the goroutine: lane before the stage is running, the others before it ends.
	lane    Lane
	err     error
	refused bool // by the target, which gives no lane
}

// Stages of a flight; its goroutine moves it from one to the next, but for stageWithdrawn.
const (
	stagePlanned int32 = iota // or no lane yet
	stageRunning
	stageWaiting
	stageTurned
	stageWithdrawn
)

var errWithdrawn = errors.New("withdrawn: an earlier group needs a lock of it")

func newFlights(ctx context.Context, r *run) *flights {
	// The schedule's limit is for memory.
	most := min(2*r.cfg.Workers, schedule.GroupsMax)
	fl := &flights{r: r, schedule: schedule.New(most), ended: make(chan *flight, most)}
	fl.ctx, fl.stop = context.WithCancel(ctx)
	fl.tick = time.NewTicker(untieEvery)
	fl.tick.Stop()
	return fl
}

// end waits for everything and closes the lanes.
func (fl *flights) end() {
	fl.stop()
	fl.tick.Stop()
	fl.running.Wait()
	for range len(fl.ended) {
		fl.lanes = append(fl.lanes, (<-fl.ended).lane)
	}
	fl.close()
}

// close closes the lanes that are not in use.
func (fl *flights) close() {
	var closing sync.WaitGroup
	for _, lane := range fl.lanes {
		if lane != nil {
			closing.Go(func() { closeLane(fl.ctx, lane) })
			fl.open--
		}
	}
	closing.Wait()
	fl.lanes = fl.lanes[:0]
}

func closeLane(ctx context.Context, lane Lane) {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	lane.Close(closing)
}

func (fl *flights) none() bool { return len(fl.all) == 0 }

// room says that another group can be taken.
func (fl *flights) room() bool { return !fl.schedule.Full() }

// helps says that a group is to become a flight: it is as large as a group may be, and there is more behind it. While the
// target keeps pace nothing is: to open a lane takes longer than to apply what came meanwhile.
func (fl *flights) helps(q *queue) bool {
	return fl.r.cfg.Workers > 1 && !fl.isGrounded() && fl.r.failures == 0 && !fl.r.alone && q.backlog()
}

// at is how far everything is when the last flight is committed.
func (fl *flights) at() (written, progress Progress) {
	if fl.none() {
		return fl.r.written, fl.r.progress
	}
	f := fl.all[len(fl.all)-1]
	return f.group.To, f.after
}

// add takes a group whose keys are fl.keys.
func (fl *flights) add(g Group) {
	f := &flight{group: g, after: g.To, id: fl.schedule.Add(fl.keys), committed: make(chan struct{})}
	if fl.none() {
		fl.tick.Reset(untieEvery)
	} else {
		f.before = fl.all[len(fl.all)-1].committed
	}
	fl.all = append(fl.all, f)
	if !fl.isGrounded() {
		fl.start()
	}
}

// pass adds units without transactions to the last flight.
func (fl *flights) pass(units []Unit, at Progress) {
	f := fl.all[len(fl.all)-1]
	f.more, f.after = append(f.more, units...), at
}

// start starts what may.
func (fl *flights) start() {
	fl.makeReady()
	for n, f := range fl.all {
		if f.inAir || f.done || !f.ready || f.asFirst && n > 0 {
			continue
		}
		var lane Lane
		switch free := len(fl.lanes); {
		case free > 0:
			lane = fl.lanes[free-1]
			fl.lanes = fl.lanes[:free-1]
		case fl.open < fl.r.cfg.Workers:
			fl.open++
		default:
			return
		}
		fl.launch(f, lane, n == 0)
	}
}

func (fl *flights) makeReady() {
	for id, ok := fl.schedule.Next(); ok; id, ok = fl.schedule.Next() {
		fl.all[slices.IndexFunc(fl.all, func(f *flight) bool { return f.id == id })].ready = true
	}
}

// launch runs a flight; lane nil: on one that is opened for it.
func (fl *flights) launch(f *flight, lane Lane, first bool) {
	ctx, cancel := context.WithCancel(fl.ctx)
	f.inAir, f.wasFirst, f.cancel, f.err, f.refused, f.lane = true, first, cancel, nil, false, lane
	f.stage.Store(stagePlanned)
	f.group.Turn = f.turn
	fl.running.Go(func() {
		f.run(ctx, fl.r.session, fl.r.cfg.OpenTimeout)
		cancel()
		fl.ended <- f
	})
}

// run is the flight's goroutine.
func (f *flight) run(ctx context.Context, session Session, openTimeout time.Duration) {
	if f.lane == nil {
		opening, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		if f.lane, f.err = session.Lane(opening); f.err != nil {
			f.lane, f.refused = nil, true
			return
		}
	}
	if !f.stage.CompareAndSwap(stagePlanned, stageRunning) {
		f.err = errWithdrawn
		return
	}
	if f.err = f.lane.Apply(ctx, f.group); f.err == nil {
		close(f.committed) // the next one's turn
	}
}

// turn is Group.Turn.
func (f *flight) turn(ctx context.Context) error {
	if !f.stage.CompareAndSwap(stageRunning, stageWaiting) && f.stage.Load() != stageWaiting {
		return errWithdrawn
	}
	if f.before != nil {
		select {
		case <-f.before:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if !f.stage.CompareAndSwap(stageWaiting, stageTurned) {
		return errWithdrawn
	}
	return nil
}

// arrivals deals with those that are known to have ended.
func (fl *flights) arrivals(q *queue) error {
	for {
		select {
		case f := <-fl.ended:
			if err := fl.landed(f, q); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// landed deals with a flight whose goroutine ended.
func (fl *flights) landed(f *flight, q *queue) error {
	f.inAir = false
	if f.err != nil {
		return fl.failed(f, q)
	}
	fl.lanes = append(fl.lanes, f.lane)
	fl.committed(f, q)
	return fl.goOn(q)
}

// goOn starts what may. While there are to be no lanes it waits for what is in the air, and does the rest on the session.
func (fl *flights) goOn(q *queue) error {
	if !fl.isGrounded() {
		fl.start()
		return nil
	}
	if slices.ContainsFunc(fl.all, func(f *flight) bool { return f.inAir }) {
		return nil
	}
	return fl.inPlace(q)
}

// committed lets those start that waited for a flight. The goroutines' news may come in another order than their commits.
func (fl *flights) committed(f *flight, q *queue) {
	f.done = true
	fl.schedule.Done(f.id)
	for !fl.none() && fl.all[0].done {
		first := fl.all[0]
		fl.all = slices.Delete(fl.all, 0, 1)
		fl.r.flown(first, q)
	}
	if fl.none() {
		fl.tick.Stop()
	}
}

// failed decides whether a flight's error is its own.
func (fl *flights) failed(f *flight, q *queue) error {
	if f.lane != nil {
		closeLane(fl.ctx, f.lane)
	}
	fl.open--
	stage := f.stage.Load()
	switch {
	case fl.ctx.Err() != nil:
		return fl.ctx.Err()
	case f.refused:
		fl.ground()
	case stage == stageTurned || f.wasFirst:
		return f.err
	default:
		f.asFirst = true
	}
	return fl.goOn(q)
}

// groundedFor: a target may refuse connections for a while only.
const groundedFor = time.Minute

func (fl *flights) isGrounded() bool { return fl.r.cfg.Now().Before(fl.grounded) }

// ground ends all flights that did not get their turn: the first one may be without a lane, while those behind it have all that
// there are, and wait for it. One that began as the first gets through by itself.
func (fl *flights) ground() {
	fl.grounded = fl.r.cfg.Now().Add(groundedFor)
	for _, f := range fl.all {
		if f.inAir && !f.wasFirst {
			f.withdraw(stagePlanned, stageRunning, stageWaiting)
		}
	}
}

// withdraw ends the goroutine of a flight that is at one of these stages, in rising order. It does not touch one that has its turn.
func (f *flight) withdraw(stages ...int32) {
	for _, stage := range stages {
		if f.stage.CompareAndSwap(stage, stageWithdrawn) {
			f.cancel()
			return
		}
	}
}

// inPlace applies on the session what no lane is there for. Nothing is in the air.
func (fl *flights) inPlace(q *queue) error {
	for !fl.none() {
		fl.makeReady()
		f := fl.all[0]
		f.group.Turn = nil
		if err := fl.r.session.Apply(fl.ctx, f.group); err != nil {
			return err
		}
		close(f.committed)
		fl.committed(f, q)
	}
	return nil
}

// land waits until nothing is on its way. Something that was taken from the queue is to come then.
func (fl *flights) land(q *queue) error {
	fl.landing = true
	defer func() { fl.landing = false }()
	for !fl.none() {
		var err error
		select {
		case f := <-fl.ended:
			err = fl.landed(f, q)
		case <-fl.tick.C:
			err = fl.untie()
		case <-fl.ctx.Done():
			err = fl.ctx.Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// untieEvery: how often the first flight is looked at; at the 2nd, 4th, 8th and each 16th time the target is asked.
const untieEvery = 100 * time.Millisecond

// untie ends a wait in a circle: the first flight waits, on the target, for a lock of one that waits, here, for its turn.
func (fl *flights) untie() error {
	if fl.none() {
		return nil
	}
	first := fl.all[0]
	if stage := first.stage.Load(); !first.inAir || stage != stageRunning && stage != stageTurned {
		return nil
	}
	first.looks++
	if n := first.looks; n < 2 || n&(n-1) != 0 && n%16 != 0 {
		return nil
	}
	var waiting []*flight
	var lanes []Lane
	for _, f := range fl.all[1:] {
		if f.inAir && f.stage.Load() == stageWaiting {
			waiting, lanes = append(waiting, f), append(lanes, f.lane)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	held, err := fl.r.session.Held(fl.ctx, first.lane, lanes)
	if err != nil {
		return fmt.Errorf("ask the target who waits for whom: %w", err)
	}
	if held {
		for _, f := range waiting {
			f.withdraw(stageWaiting)
		}
	}
	return nil
}
