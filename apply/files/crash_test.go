package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

const testHead = "-- head\n"

// lines is an encoder: a line for each transaction.
type lines struct{}

func (lines) Encode(b *pipeline.Batch) (pieces []io.WriterTo, err error) {
	previous := b.Previous
	for _, tx := range b.Transactions {
		pieces = append(pieces, strings.NewReader(lineOf(tx.CSN, previous)))
		previous = tx.CSN
	}
	return pieces, nil
}

func lineOf(csn, previous pipeline.CSN) string {
	return fmt.Sprintf("csn %s behind %s\n", csn, previous)
}

// history is a stream: groups, the progress at the end of each. Some have no transactions.
type history []apply.Group

// newHistory makes groups of up to three units of up to three transactions.
func newHistory(rng *rand.Rand, groups int) (h history) {
	var at apply.Progress
	csn := pipeline.CSN(0)
	for range groups {
		g := apply.Group{From: at, To: apply.Progress{StreamID: "stream", Seq: at.Seq, CSN: at.CSN}}
		for range 1 + rng.IntN(3) {
			g.To.Seq++
			u := apply.Unit{End: apply.End{Seq: g.To.Seq}}
			if n := rng.IntN(4); n > 0 {
				u.Unit = &wire.Unit{Previous: csn}
				for range n {
					csn += pipeline.CSN(1 + rng.IntN(5))
					u.Transactions = append(u.Transactions, &pipeline.Transaction{CSN: csn, Fragments: []*pipeline.Fragment{{}}})
				}
				u.Last, g.To.CSN = csn, csn
			}
			g.Units = append(g.Units, u)
		}
		g.To.Stamp = int64(g.To.Seq) * 10
		h, at = append(h, g), g.To
	}
	return h
}

// text is what all files hold together when groups up to n are applied.
func (h history) text(n int) string {
	var b strings.Builder
	for _, g := range h[:n] {
		for _, u := range g.Units {
			if u.Unit == nil {
				continue
			}
			previous := u.Previous
			for _, tx := range u.Transactions {
				b.WriteString(lineOf(tx.CSN, previous))
				previous = tx.CSN
			}
		}
	}
	return b.String()
}

// reached finds the groups that a progress covers.
func (h history) reached(p apply.Progress) (int, error) {
	if p == (apply.Progress{}) {
		return 0, nil
	}
	for i, g := range h {
		if g.To == p {
			return i + 1, nil
		}
	}
	return 0, fmt.Errorf("%+v is no group's end", p)
}

// rig feeds a history to a folder on a memory disk.
type rig struct {
	h      history
	d      *memory
	cfg    Config
	acked  int // groups
	merges bool
	clock  time.Time
}

func newRig(rng *rand.Rand, groups int) *rig {
	r := &rig{h: newHistory(rng, groups), d: newMemory(rng), clock: time.Unix(1e9, 0)}
	r.cfg = Config{
		Folder: "folder", Subscription: "s", Format: "sql", Head: testHead, Encoder: func([]Copying) Encoder { return lines{} },
		RotateBytes: 90, RotateEvery: time.Minute, Now: func() time.Time { r.clock = r.clock.Add(7 * time.Second); return r.clock }, disk: r.d,
	}
	return r
}

// run applies what is left until an error, or to the end.
func (r *rig) run(t testing.TB) error {
	target, err := New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	session, err := target.Open(ctx)
	if err != nil {
		return err
	}
	defer session.Close(ctx)
	p, err := session.Progress(ctx)
	if err != nil {
		return err
	}
	at, err := r.h.reached(p)
	if err != nil {
		t.Fatal(err)
	}
	if at < r.acked {
		t.Fatalf("%d groups are there, %d were acknowledged", at, r.acked)
	}
	r.acked = at
	for r.acked < len(r.h) {
		n := 1 // a worker that begins anew may cut its backlog otherwise
		if r.merges {
			n = 1 + r.d.rng.IntN(min(4, len(r.h)-r.acked))
		}
		g := r.h[r.acked]
		for _, more := range r.h[r.acked+1 : r.acked+n] {
			g.Units, g.To = slices.Concat(g.Units, more.Units), more.To
		}
		if err := session.Apply(ctx, g); err != nil {
			return err
		}
		r.acked += n
	}
	return nil
}

// check reads the folder as a reader would: what the indexes say, and nothing else.
func (r *rig) check(t testing.TB, groups int) {
	t.Helper()
	var all strings.Builder
	state := state{}
	files := 0
	for _, name := range mustList(t, r.d) {
		if !ours.MatchString(name) {
			continue
		}
		x, err := readIndex(io.NewSectionReader(r.d.names[name], 0, 1<<62))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if x.head.After.CSN != state.progress.CSN || name != nameOf(state.progress.CSN)+indexEnding {
			t.Fatalf("%s begins behind %s, and the file before ended at %s", name, x.head.After.CSN, state.progress)
		}
		state = x.state
		data := r.d.names[strings.TrimSuffix(name, indexEnding)+".sql"]
		if index := r.d.names[name]; int64(len(index.content)) != x.written {
			t.Fatalf("%s: %d bytes, of which %d are whole lines", name, len(index.content), x.written)
		}
		if int64(len(data.content)) != state.end || !strings.HasPrefix(string(data.content), testHead) {
			t.Fatalf("%s: %d bytes %q, want %d", name, len(data.content), data.content, state.end)
		}
		all.Write(data.content[len(testHead):state.end])
		files++
	}
	if want := r.h.text(groups); all.String() != want {
		t.Fatalf("the files hold\n%swant\n%s", all.String(), want)
	}
	if groups > 10 && files < 3 {
		t.Errorf("%d files: nothing was rotated", files)
	}
}

func mustList(t testing.TB, d *memory) []string {
	names, err := d.list("")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestFaults breaks every step: it fails before, or having done all, or half; then the process goes on, or the power is cut.
// Afterwards each transaction is there once, and nothing that was acknowledged is gone.
func TestFaults(t *testing.T) {
	const groups = 12
	for seed := range uint64(2) {
		clean := newRig(rand.New(rand.NewPCG(seed, 0)), groups)
		if err := clean.run(t); err != nil {
			t.Fatal(err)
		}
		clean.check(t, groups)
		steps := clean.d.calls
		for step := 1; step <= steps; step++ {
			for _, how := range []fault{before, after, half} {
				for _, cut := range []bool{false, true} {
					if how == half && !strings.Contains(clean.d.trace[step-1], "write") {
						continue
					}
					r := newRig(rand.New(rand.NewPCG(seed, 0)), groups)
					r.d.fail[step] = how
					if err := r.run(t); !errors.Is(err, errFault) {
						t.Fatalf("seed %d, step %d: %v, want the fault", seed, step, err)
					}
					failed := r.d.trace[step-1]
					if cut {
						r.d.cut()
					}
					if err := r.run(t); err != nil {
						t.Fatalf("seed %d, %s fails (%d), power cut %t: %v", seed, failed, how, cut, err)
					}
					if r.d.cut(); r.run(t) != nil {
						t.Fatalf("seed %d, %s fails (%d), power cut %t: it does not open again", seed, failed, how, cut)
					}
					r.check(t, groups)
				}
			}
		}
	}
}

// TestCrashes does so at random places, many times in one history.
func TestCrashes(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		const groups = 20
		r := newRig(rng, groups)
		r.merges = true
		for tries := 0; r.acked < groups; tries++ {
			if tries > 2000 {
				t.Fatalf("seed %d: it does not end", seed)
			}
			r.d.fail = map[int]fault{r.d.calls + 1 + rng.IntN(25): fault(1 + rng.IntN(3))}
			err := r.run(t)
			if err != nil && !errors.Is(err, errFault) {
				t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(r.d.trace[max(0, len(r.d.trace)-30):], "\n"))
			}
			if rng.IntN(2) == 0 {
				r.d.cut()
			}
		}
		r.d.fail = nil
		if err := r.run(t); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		r.check(t, groups)
	}
}

// TestTrace is every step of a commit, in order.
func TestTrace(t *testing.T) {
	r := newRig(rand.New(rand.NewPCG(0, 0)), 0)
	tx := func(csn pipeline.CSN) *pipeline.Transaction {
		return &pipeline.Transaction{CSN: csn, Fragments: []*pipeline.Fragment{{}}}
	}
	at := func(csn pipeline.CSN, seq pipeline.Seq) apply.Progress {
		return apply.Progress{StreamID: "x", CSN: csn, Seq: seq}
	}
	unit := func(previous, csn pipeline.CSN) []apply.Unit {
		return []apply.Unit{{Unit: &wire.Unit{Previous: previous, Last: csn, Transactions: []*pipeline.Transaction{tx(csn)}}}}
	}
	r.cfg.RotateBytes = 1
	r.h = history{
		{To: at(5, 1), Units: unit(0, 5)},
		{From: at(5, 1), To: at(5, 2)},
		{From: at(5, 2), To: at(5, 3)},
		{From: at(5, 3), To: at(7, 4), Units: unit(5, 7)},
	}
	if err := r.run(t); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"1 sync folder",
		"2 create 00000000000000000000.sql", "3 write 00000000000000000000.sql at 0", "4 sync 00000000000000000000.sql",
		"5 create 00000000000000000000.index.new", "6 write 00000000000000000000.index.new at 0", "7 sync 00000000000000000000.index.new",
		"8 rename 00000000000000000000.index.new 00000000000000000000.index", "9 sync folder",
		"10 write 00000000000000000000.sql at 8", "11 sync 00000000000000000000.sql",
	}
	if len(r.d.trace) < len(want) || !slices.Equal(r.d.trace[:len(want)], want) {
		t.Errorf("steps\n%s\nwant\n%s", strings.Join(r.d.trace, "\n"), strings.Join(want, "\n"))
	}
	rest := strings.Join(r.d.trace[len(want):], "\n")
	for _, step := range []string{
		"12 write 00000000000000000000.index at ", "13 sync 00000000000000000000.index", // the commit point
		"14 create 00000000000000000005.sql", // full: the heartbeat begins the next file
		"21 sync folder", "22 create progress.json.new", "25 rename progress.json.new progress.json", "26 sync folder",
		"27 write 00000000000000000005.sql at 8", "30 sync 00000000000000000005.index",
	} {
		if !strings.Contains(rest, step) {
			t.Errorf("%q is not among\n%s", step, rest)
		}
	}
}
