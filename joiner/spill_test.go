package joiner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"shardcdc/joiner/merge"
	"shardcdc/pipeline"
)

// disk is a spill in memory that counts what it holds.
type disk struct {
	mu    sync.Mutex
	files int
	bytes int
	made  int

	opened int
	err    error
}

type file struct {
	disk *disk
	data []byte
	gone bool
}

func (d *disk) spill(_ context.Context, _ pipeline.ShardID, bodies [][]byte) (pipeline.Content, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.err
	}
	f := &file{disk: d, data: bytes.Join(bodies, nil)}
	d.files++
	d.made++
	d.bytes += len(f.data)
	return f, nil
}

func (d *disk) holds() (files, bytes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.files, d.bytes
}

func (f *file) Size() int64 { return int64(len(f.data)) }

func (f *file) Open() (io.ReadCloser, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.gone {
		return nil, errors.New("released")
	}
	if f.disk.opened++; f.disk.opened%2 == 0 {
		return seekable{bytes.NewReader(f.data)}, nil
	}
	return io.NopCloser(bytes.NewBuffer(f.data)), nil
}

type seekable struct{ *bytes.Reader }

func (seekable) Close() error { return nil }

func (f *file) Release() {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.gone {
		panic("released twice")
	}
	f.gone = true
	f.disk.files--
	f.disk.bytes -= len(f.data)
}

func newSpilling(t *testing.T, shards, bytesMax int, d *disk, ask func(pipeline.ShardID, uint64)) *Joiner {
	t.Helper()
	if ask == nil {
		ask = func(pipeline.ShardID, uint64) {}
	}
	j, err := New(merge.Config{
		Shards: shards, MaxClockSkew: time.Second, GlobalID: func(gid string) string { return gid }, BytesMax: bytesMax,
		Start: pipeline.Checkpoint{Shards: make([]pipeline.ShardCheckpoint, shards)},
	}, ask)
	if err != nil {
		t.Fatal(err)
	}
	j.Spill = d.spill
	return j
}

func prepare(shard pipeline.ShardID, gid string, end pipeline.LSN, bodyBytes int) pipeline.Record {
	f := &pipeline.Fragment{Shard: shard, GID: gid, XID: pipeline.XID(end), Start: end - 1, End: end, Time: pipeline.Timestamp(end)}
	f.Append(message(bodyBytes, int(end)))
	return pipeline.Record{Kind: pipeline.Prepare, Fragment: f, GID: gid, XID: f.XID, Start: f.Start, End: end, Time: f.Time}
}

// message is a change of about n bytes: a delete of a row with one text column.
func message(n, seed int) []byte {
	m := []byte{'D', 0, 0, 0, 1, 'K', 0, 1, 't', 0, 0, byte(n >> 8), byte(n)}
	for i := range n {
		m = append(m, byte(i+seed))
	}
	return m
}

// Prepared fragments beyond BytesMax leave memory, small ones together in few files; they are read back as they were, and
// a file goes with its last fragment.
func TestUndecidedFragmentsLeaveMemory(t *testing.T) {
	d := &disk{}
	j := newSpilling(t, 1, 1000, d, nil)
	ctx := context.Background()
	const batches, perBatch = 20, 1000
	want := map[string][]byte{}
	at, one := pipeline.LSN(0), 0 // one is the size of a body
	var open []pipeline.Record
	for range batches {
		var records []pipeline.Record
		for range perBatch {
			at += 10
			r := prepare(0, fmt.Sprint("g", at), at, 500)
			want[r.GID], one = r.Fragment.Body, len(r.Fragment.Body)
			records = append(records, r)
		}
		open = append(open, records...)
		if err := j.Offer(ctx, 0, records, at); err != nil {
			t.Fatal(err)
		}
	}
	files, held := d.holds()
	total := batches * perBatch * one
	if inMemory := j.Status().BytesHeld; inMemory+held != total || inMemory > perBatch*one {
		t.Fatalf("%d bytes in memory and %d on disk of %d", inMemory, held, total)
	}
	if most := held/packBytes + 2*batches; files > most {
		t.Fatalf("%d files, want at most %d", files, most)
	}
	for _, r := range open {
		body, err := r.Fragment.OpenBody()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		if err = errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, want[r.GID]) {
			t.Fatalf("%s: read something else than was written: %v", r.Fragment, err)
		}
	}
	// All are rolled back: the merge drops them, and the files go.
	for _, r := range open {
		at += 10
		undo := pipeline.Record{Kind: pipeline.RollbackPrepared, GID: r.GID, XID: r.XID, Start: at - 1, End: at, PrepareEnd: r.End, Time: pipeline.Timestamp(at)}
		if err := j.Offer(ctx, 0, []pipeline.Record{undo}, at); err != nil {
			t.Fatal(err)
		}
	}
	if files, held := d.holds(); files != 0 || held != 0 || j.Status().BytesHeld != 0 {
		t.Fatalf("%d files of %d bytes and %d bytes of memory are left", files, held, j.Status().BytesHeld)
	}
}

// A shard that may wait does; nothing is moved out for it.
func TestWaitingComesBeforeSpilling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		j := newSpilling(t, 2, 1, d, nil)
		ctx, cancel := context.WithCancel(context.Background())
		if err := j.Offer(ctx, 0, commit(0, 100, 5*second), 100); err != nil {
			t.Fatal(err)
		}
		offered := make(chan error, 1)
		go func() { offered <- j.Offer(ctx, 0, commit(0, 200, 6*second), 200) }()
		synctest.Wait()
		if d.made != 0 {
			t.Fatal("a shard that nothing waits for is spilled")
		}
		// Shard 1 is waited for: it spills.
		if err := j.Offer(ctx, 1, commit(1, 100, 7*second), 100); err != nil {
			t.Fatal(err)
		}
		if d.made != 1 {
			t.Fatalf("%d files, want 1", d.made)
		}
		cancel()
		<-offered
	})
}

// A disk that fails is an error of Offer, and the records were not taken.
func TestSpillFails(t *testing.T) {
	d := &disk{err: errors.New("no space")}
	j := newSpilling(t, 1, 1, d, nil)
	ctx := context.Background()
	first := prepare(0, "g", 10, 500)
	if err := j.Offer(ctx, 0, []pipeline.Record{first}, 10); err != nil {
		t.Fatal(err)
	}
	second := []pipeline.Record{prepare(0, "h", 20, 500)}
	if err := j.Offer(ctx, 0, second, 20); err == nil || !strings.Contains(err.Error(), "no space") || !strings.Contains(err.Error(), `gid "h"`) {
		t.Fatal(err)
	}
	if second[0].Fragment.Body == nil {
		t.Fatal("the body is gone")
	}
	d.err = nil
	if err := j.Offer(ctx, 0, second, 20); err != nil {
		t.Fatal(err)
	}
}

// AwaitRoom waits for what is on its way, and refuses at once when only reading on could help.
func TestAwaitRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		j := newSpilling(t, 1, 1, d, nil)
		ctx := context.Background()
		if err := j.Offer(ctx, 0, []pipeline.Record{prepare(0, "g", 10, 500)}, 10); err != nil {
			t.Fatal(err)
		}
		if err := j.AwaitRoom(ctx, 0); err == nil || !strings.Contains(err.Error(), "Try: cdcctl alter-subscription NAME --spill-bytes-max") {
			t.Fatal(err)
		}
		if err := j.Offer(ctx, 0, commit(0, 20, 5*second), 20); err != nil {
			t.Fatal(err)
		}
		waited := make(chan error, 1)
		go func() { waited <- j.AwaitRoom(ctx, 0) }()
		synctest.Wait()
		b, err := j.Next(ctx, 1<<20, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case err := <-waited:
			t.Fatal("did not wait:", err)
		default:
		}
		b.Transactions[0].Release()
		j.Durable(&b.Checkpoint)
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		// Only the undecided one is left, so the next one has to be told.
		if err := j.AwaitRoom(ctx, 0); err == nil {
			t.Fatal("waits for ever")
		}
		stopped, cancel := context.WithCancel(ctx)
		if err := j.Offer(ctx, 0, commit(0, 30, 6*second), 30); err != nil {
			t.Fatal(err)
		}
		go func() { waited <- j.AwaitRoom(stopped, 0) }()
		synctest.Wait()
		cancel()
		if err := <-waited; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}

// A shard that is waited for has to wait for room nevertheless, while a batch is on its way or may leave.
func TestAwaitRoomBesideABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newSpilling(t, 2, 1, &disk{}, nil)
		ctx := context.Background()
		waits := func(shard pipeline.ShardID) chan error {
			waited := make(chan error, 1)
			go func() { waited <- j.AwaitRoom(ctx, shard) }()
			synctest.Wait()
			select {
			case err := <-waited:
				t.Fatal("did not wait:", err)
			default:
			}
			return waited
		}
		offer := func(shard pipeline.ShardID, end pipeline.LSN, at pipeline.Timestamp) {
			if err := j.Offer(ctx, shard, commit(shard, end, at), end); err != nil {
				t.Fatal(err)
			}
		}
		offer(0, 100, 5*second)
		if err := j.Probed(1, 1, 4*second, 500); err != nil { // shard 1 is waited for until 500
			t.Fatal(err)
		}
		offer(1, 100, 6*second)
		ready := waits(1)
		b, err := j.Next(ctx, 1<<20, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		flying := waits(1)
		j.Durable(&b.Checkpoint)
		for _, c := range []chan error{ready, flying} {
			if err := <-c; err != nil {
				t.Fatal(err)
			}
		}
		if err := j.AwaitRoom(ctx, 1); !errors.Is(err, errNoRoom) {
			t.Fatal(err)
		}
	})
}

// traffic is three shards' WAL with one-phase and distributed transactions.
func traffic(r *rand.Rand, n int) (wal [3][]pipeline.Record, changes int) {
	at := pipeline.LSN(0)
	write := func(shard int, rec pipeline.Record) {
		at += 10
		rec.Start, rec.End, rec.Time = at-5, at, pipeline.Timestamp(at)
		if f := rec.Fragment; f != nil {
			f.Shard, f.Start, f.End, f.Time, f.XID, f.GID = pipeline.ShardID(shard), rec.Start, rec.End, rec.Time, rec.XID, rec.GID
			f.Append(message(r.IntN(3000), int(at)))
			changes++
		}
		wal[shard] = append(wal[shard], rec)
	}
	for i := range n {
		first, xid := r.IntN(3), pipeline.XID(i+1)
		if r.IntN(2) == 0 {
			write(first, pipeline.Record{Kind: pipeline.Commit, Fragment: &pipeline.Fragment{}, XID: xid})
			continue
		}
		gid, other := fmt.Sprint("g", i), (first+1+r.IntN(2))%3
		for _, s := range []int{first, other} {
			write(s, pipeline.Record{Kind: pipeline.Prepare, Fragment: &pipeline.Fragment{}, GID: gid, XID: xid})
		}
		for _, s := range []int{other, first} {
			write(s, pipeline.Record{Kind: pipeline.CommitPrepared, GID: gid, XID: xid})
		}
	}
	return wal, changes
}

// Three shards, a limit of one byte, everything at once: nothing stands still (the bubble would say so), every change comes
// out as it went in, and nothing is left behind.
func TestThreeShardsWithoutMemory(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { withoutMemory(t, rand.New(rand.NewPCG(seed, 7))) })
		})
	}
}

func withoutMemory(t *testing.T, r *rand.Rand) {
	wal, changes := traffic(r, 300)
	var size [3]int
	for i := range size {
		size[i] = 1 + r.IntN(20)
	}
	d := &disk{}
	probes := make(chan asked, 100)
	j := newSpilling(t, 3, 1, d, func(s pipeline.ShardID, p uint64) { probes <- asked{s, p} })
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	end := pipeline.LSN(0)
	for i := range wal {
		end = max(end, wal[i][len(wal[i])-1].End)
	}
	for i := range wal {
		wg.Go(func() {
			id := pipeline.ShardID(i)
			for rest := wal[i]; len(rest) > 0; {
				n := min(size[i], len(rest))
				if err := j.Offer(ctx, id, rest[:n:n], rest[n-1].End); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
			if err := j.Offer(ctx, id, nil, end); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		for {
			select {
			case a := <-probes:
				if err := j.Probed(a.shard, a.probe, pipeline.Timestamp(end)+1, end); err != nil {
					t.Error(err)
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	for changes > 0 {
		b, err := j.Next(ctx, 10000, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, tx := range b.Transactions {
			for _, f := range tx.Fragments {
				body, err := f.OpenBody()
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(body)
				m := got[4:]
				if err != nil || !bytes.Equal(m, message(len(m)-13, int(f.End))) {
					t.Fatalf("%s: %v", f, err)
				}
				changes -= f.Changes
			}
			tx.Release()
		}
		j.Durable(&b.Checkpoint)
	}
	if files, held := d.holds(); files != 0 || held != 0 || d.made == 0 {
		t.Fatalf("%d files of %d bytes are left of %d", files, held, d.made)
	}
}

// What was moved out of memory is back in it when it leaves together with others: encoders take a transaction that is not
// in memory only if it is alone in its batch.
func TestMovedOutComesBackTogether(t *testing.T) {
	d := &disk{}
	j := newSpilling(t, 1, 1, d, nil)
	ctx := context.Background()
	for n := pipeline.LSN(1); n <= 4; n++ {
		size := 100
		if n == 4 {
			size = 5000
		}
		if err := j.Offer(ctx, 0, []pipeline.Record{prepare(0, fmt.Sprint("g", n), n*10, size)}, n*10); err != nil {
			t.Fatal(err)
		}
	}
	if files, _ := d.holds(); files == 0 {
		t.Fatal("nothing was moved out")
	}
	var decided []pipeline.Record
	for n := pipeline.LSN(1); n <= 4; n++ {
		decided = append(decided, pipeline.Record{Kind: pipeline.CommitPrepared, GID: fmt.Sprint("g", n), XID: pipeline.XID(n * 10), Start: 99 + n*10, End: 100 + n*10, Time: pipeline.Timestamp(100 + n*10)})
	}
	if err := j.Offer(ctx, 0, decided, 200); err != nil {
		t.Fatal(err)
	}
	for left := 4; left > 0; {
		b, err := j.Next(ctx, 1000, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, tx := range b.Transactions {
			if len(b.Transactions) > 1 && !tx.Resident() {
				t.Errorf("csn %s is not in memory, and one of %d in its batch", tx.CSN, len(b.Transactions))
			}
			for _, f := range tx.Fragments {
				body, err := f.OpenBody()
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(body)
				m := got[4:]
				if err != nil || !bytes.Equal(m, message(len(m)-13, int(f.End))) {
					t.Errorf("%s: %v", f, err)
				}
			}
			tx.Release()
		}
		left -= len(b.Transactions)
		j.Durable(&b.Checkpoint)
	}
	if files, held := d.holds(); files != 0 || held != 0 {
		t.Errorf("%d files of %d bytes are left", files, held)
	}
}
