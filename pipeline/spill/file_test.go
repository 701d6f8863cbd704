package spill

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// pattern is n bytes that differ by their position.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}

// filled is a sealed body of n bytes.
func filled(t testing.TB, d *Folder, n int) *File {
	t.Helper()
	f, err := d.Create(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(pattern(n)); err != nil {
		t.Fatal(err)
	}
	if err := f.Seal(); err != nil {
		t.Fatal(err)
	}
	return f
}

type fataler interface {
	Helper()
	Fatal(...any)
}

func read(t fataler, f *File) []byte {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestAgainstBuffer: whatever is written and cut off, what is read is what a buffer in memory would hold.
func TestAgainstBuffer(t *testing.T) {
	d := open(t, t.TempDir(), 1<<40)
	rapid.Check(t, func(t *rapid.T) {
		f, err := d.Create(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Release()
		var model bytes.Buffer
		sizes := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, 3*bufferBytes), rapid.SampledFrom([]int{bufferBytes - 1, bufferBytes, bufferBytes + 1}))
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				p := pattern(sizes.Draw(t, "bytes"))
				model.Write(p)
				if n, err := f.Write(p); n != len(p) || err != nil {
					t.Fatal(n, err)
				}
			},
			"truncate": func(t *rapid.T) {
				n := rapid.IntRange(0, model.Len()).Draw(t, "size")
				model.Truncate(n)
				if err := f.Truncate(int64(n)); err != nil {
					t.Fatal(err)
				}
			},
			"park": func(t *rapid.T) {
				if err := f.Park(); err != nil {
					t.Fatal(err)
				}
				if f.buffer != nil || d.Used() != int64(model.Len()) {
					t.Fatal("parked, but not all is on the disk")
				}
			},
			"": func(t *rapid.T) {
				if f.Size() != int64(model.Len()) {
					t.Fatalf("size %d, want %d", f.Size(), model.Len())
				}
			},
		})
		if err := f.Seal(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, f), model.Bytes()) {
			t.Fatal("read something else than was written")
		}
		if d.Used() != f.Size() {
			t.Fatalf("%d bytes used by %d", d.Used(), f.Size())
		}
		f.Release()
		if d.Used() != 0 {
			t.Fatalf("%d bytes used by nothing", d.Used())
		}
		if entries, err := os.ReadDir(d.Path()); err != nil || len(entries) != 1 { // the lock
			t.Fatal(entries, err)
		}
	})
}

func TestRelease(t *testing.T) {
	d := open(t, t.TempDir(), 1<<20)
	f := filled(t, d, 300_000)
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 {
		f.Release()
	}
	there(t, f.path, false)
	if d.Used() != 0 {
		t.Errorf("%d bytes used", d.Used())
	}
	if got, err := io.ReadAll(r); err != nil || len(got) != 300_000 {
		t.Errorf("the open reader: %d bytes, %v", len(got), err)
	}
	if _, err := f.Open(); !errors.Is(err, ErrReleased) {
		t.Errorf("open: %v", err)
	}
	if _, err := f.Write([]byte("x")); !errors.Is(err, ErrReleased) {
		t.Errorf("write: %v", err)
	}
	if err := errors.Join(f.Truncate(0)); !errors.Is(err, ErrReleased) {
		t.Errorf("truncate: %v", err)
	}
}

func TestFaultsOfTheCaller(t *testing.T) {
	d := open(t, t.TempDir(), 1<<20)
	f, err := d.Create(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Open(); err == nil || !strings.Contains(err.Error(), "before it is sealed") {
		t.Errorf("open: %v", err)
	}
	for _, size := range []int64{-1, 1} {
		if err := f.Truncate(size); err == nil {
			t.Errorf("truncate to %d of 0 bytes", size)
		}
	}
	if err := f.Seal(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, f); len(got) != 0 {
		t.Errorf("an empty body has %d bytes", len(got))
	}
	there(t, f.path, false)
	if _, err := f.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "is sealed") {
		t.Errorf("write: %v", err)
	}
	if err := f.Truncate(0); err == nil || !strings.Contains(err.Error(), "is sealed") {
		t.Errorf("truncate: %v", err)
	}
}

// TestCutOffFile: a file that somebody made shorter is not a shorter body.
func TestCutOffFile(t *testing.T) {
	d := open(t, t.TempDir(), 1<<20)
	f := filled(t, d, 100)
	if err := os.Truncate(f.path, 60); err != nil {
		t.Fatal(err)
	}
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); len(got) != 60 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestFullWithoutCallback(t *testing.T) {
	d := open(t, t.TempDir(), 1000)
	filled(t, d, 600)
	write := func(n int) error {
		f, err := d.Create(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Release()
		_, err = f.Write(pattern(n))
		return errors.Join(err, f.Seal())
	}
	for n, want := range map[int]string{
		401:  "spill: 600 B of spill_bytes_max, 1000 B, are in use in the folder " + d.Path() + ". Try: cdcctl alter-subscription NAME --spill-bytes-max … with room for it in the folder",
		1001: "spill: one transaction has more changes on a shard than may be on the disk: spill_bytes_max is 1000 B, the folder " + d.Path() + ". Try: cdcctl alter-subscription NAME --spill-bytes-max … above the size of the transaction, with room for it in the folder",
	} {
		err := write(n)
		var full *FullError
		if !errors.As(err, &full) || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if err := write(400); err != nil {
		t.Error(err)
	}
	if d.Used() != 600 {
		t.Errorf("%d bytes used", d.Used())
	}
}

// TestFullWaits: a write waits until another body is released, and goes on.
func TestFullWaits(t *testing.T) {
	d := open(t, t.TempDir(), 1000)
	waiting := make(chan struct{}, 10)
	full := func(released <-chan struct{}) error {
		waiting <- struct{}{}
		<-released
		return nil
	}
	first, second := filled(t, d, 500), filled(t, d, 500)
	alone := filled(t, d, 0) // larger than the limit by itself: to wait would be for ever
	alone.sealed, alone.full = false, full
	if _, err := alone.Write(pattern(1001)); err != nil {
		t.Fatal(err)
	}
	var tooLarge *FullError
	if err := alone.Seal(); !errors.As(err, &tooLarge) {
		t.Errorf("got %v", err)
	}
	f, err := d.Create(full)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := f.Write(pattern(700))
		done <- errors.Join(err, f.Seal())
	}()
	<-waiting
	first.Release()
	<-waiting // half of the room is not enough
	second.Release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, f), pattern(700)) || d.Used() != 700 {
		t.Errorf("%d bytes used", d.Used())
	}
}

// TestFullGivesUp: the callback's error ends the write, and a body released meanwhile takes nothing.
func TestFullGivesUp(t *testing.T) {
	d := open(t, t.TempDir(), 1000)
	filled(t, d, 600)
	gone := errors.New("nobody will release anything")
	f, err := d.Create(func(<-chan struct{}) error { return gone })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(pattern(500)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Park(); !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
	}
	f.Release()
	if f, err = d.Create(func(<-chan struct{}) error {
		f.Release() // by another goroutine, say
		d.release(500)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(pattern(500)); err != nil {
		t.Fatal(err)
	}
	if err := f.Seal(); !errors.Is(err, ErrReleased) {
		t.Errorf("got %v", err)
	}
	if d.Used() != 100 {
		t.Errorf("%d bytes used", d.Used())
	}
}

// TestReleaseWhileWriting: whenever a body is released, its bytes come back.
func TestReleaseWhileWriting(t *testing.T) {
	d := open(t, t.TempDir(), 1<<30)
	for range 200 {
		f, err := d.Create(nil)
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		group.Go(func() {
			for {
				_, err := f.Write(pattern(1000 + rand.IntN(bufferBytes)))
				if errors.Is(err, ErrReleased) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
		for want := int64(rand.IntN(3 * bufferBytes)); f.Size() < want; {
			runtime.Gosched()
		}
		f.Release()
		group.Wait()
		if d.Used() != 0 {
			t.Fatalf("%d bytes used", d.Used())
		}
	}
}

// TestDiskFull: on a disk of its own, which only root can make.
func TestDiskFull(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no disk to fill: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	d := open(t, disk, 1<<30)
	f, err := d.Create(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(make([]byte, 2<<20))
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "the disk with the folder "+d.Path()+" is full") || !strings.Contains(err.Error(), "Try: free space there") {
		t.Errorf("got %v", err)
	}
	f.Release()
	if d.Used() != 0 {
		t.Errorf("%d bytes used", d.Used())
	}
	if f = filled(t, d, 500_000); !bytes.Equal(read(t, f), pattern(500_000)) {
		t.Error("there is room again, but it cannot be used")
	}
}

func BenchmarkWrite(b *testing.B) {
	d := open(b, b.TempDir(), 1<<60)
	f, err := d.Create(nil)
	if err != nil {
		b.Fatal(err)
	}
	row := pattern(300)
	b.ReportAllocs()
	b.SetBytes(int64(len(row)))
	for i := 0; b.Loop(); i++ {
		if _, err := f.Write(row); err != nil {
			b.Fatal(err)
		}
		if i%1_000_000 == 999_999 {
			if err := f.Truncate(0); err != nil {
				b.Fatal(err)
			}
		}
	}
	f.Release()
}

// TestSeek: a reader may begin anywhere.
func TestSeek(t *testing.T) {
	d := open(t, t.TempDir(), 1<<20)
	r, err := filled(t, d, 700).Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	seeker := r.(io.Seeker)
	for _, at := range []int64{500, 0, 699, 700, 1} {
		if _, err := seeker.Seek(at, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, pattern(700)[at:]) {
			t.Errorf("at %d: %d bytes, %v", at, len(got), err)
		}
	}
	if _, err := seeker.Seek(701, io.SeekStart); err == nil {
		t.Error("behind the end: no error")
	}
}
