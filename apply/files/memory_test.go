package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// memory is a disk whose power can be cut: what was not synced is there, or not, or half. Any of its calls can be made to fail.
type memory struct {
	rng    *rand.Rand
	names  map[string]*memoryFile // what a process sees
	stable map[string]*memoryFile // what is there after a power cut
	moves  []func(map[string]*memoryFile)
	taken  bool

	calls int // that change something
	fail  map[int]fault
	trace []string
}

// fault is how a call fails.
type fault uint8

const (
	before fault = iota + 1 // nothing happened
	after                   // it happened all the same
	half                    // of a write: a part of it
)

var errFault = errors.New("an error of the disk")

// memoryFile is content, and what of it was not synced.
type memoryFile struct {
	d       *memory
	name    string
	content []byte
	stable  []byte
	pending []func([]byte) []byte
}

func newMemory(rng *rand.Rand) *memory {
	return &memory{rng: rng, names: map[string]*memoryFile{}, stable: map[string]*memoryFile{}, fail: map[int]fault{}}
}

// call counts one, and says how it fails.
func (d *memory) call(format string, args ...any) fault {
	d.calls++
	d.trace = append(d.trace, fmt.Sprintf("%d ", d.calls)+fmt.Sprintf(format, args...))
	return d.fail[d.calls]
}

// do does one, unless it fails before.
func (d *memory) do(f fault, fn func()) error {
	if f != before {
		fn()
	}
	if f != 0 {
		return errFault
	}
	return nil
}

// cut cuts the power. Of what was not synced any part may be there: of a file any of its writes, and a part of one; of the folder the
// beginning of what was done to it.
func (d *memory) cut() {
	for _, move := range d.moves[:d.rng.IntN(len(d.moves)+1)] {
		move(d.stable)
	}
	d.moves = nil
	for _, f := range d.stable {
		for _, p := range f.pending {
			if d.rng.IntN(2) == 0 {
				f.stable = p(f.stable)
			}
		}
		f.pending, f.content = nil, slices.Clone(f.stable)
	}
	d.names = maps.Clone(d.stable)
	d.taken = false
}

func (d *memory) lock(string) (io.Closer, error) {
	if d.taken {
		return nil, errTaken
	}
	d.taken = true
	return closer(func() error { d.taken = false; return nil }), nil
}

type closer func() error

func (c closer) Close() error { return c() }

func (d *memory) list(string) ([]string, error) {
	return slices.Sorted(maps.Keys(d.names)), nil
}

func (d *memory) open(path string) (file, error) {
	if f := d.names[filepath.Base(path)]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

func (d *memory) create(path string) (file, error) {
	name := filepath.Base(path)
	var f *memoryFile
	err := d.do(d.call("create %s", name), func() {
		if f = d.names[name]; f != nil {
			f.change(func([]byte) []byte { return nil })
			return
		}
		f = &memoryFile{d: d, name: name}
		made := f
		d.change(func(names map[string]*memoryFile) { names[name] = made })
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *memory) change(move func(map[string]*memoryFile)) {
	move(d.names)
	d.moves = append(d.moves, move)
}

func (d *memory) rename(from, to string) error {
	from, to = filepath.Base(from), filepath.Base(to)
	return d.do(d.call("rename %s %s", from, to), func() {
		d.names[from].name = to
		d.change(func(names map[string]*memoryFile) {
			names[to] = names[from]
			delete(names, from)
		})
	})
}

func (d *memory) still(path string, f io.Closer) (bool, error) {
	open, isFile := f.(*memoryFile)
	return !isFile || d.names[filepath.Base(path)] == open, nil
}

func (d *memory) syncFolder(string) error {
	return d.do(d.call("sync folder"), func() {
		for _, move := range d.moves {
			move(d.stable)
		}
		d.moves = nil
	})
}

func (f *memoryFile) change(p func([]byte) []byte) {
	f.content = p(f.content)
	f.pending = append(f.pending, p)
}

func (f *memoryFile) ReadAt(b []byte, at int64) (int, error) {
	if at >= int64(len(f.content)) {
		return 0, io.EOF
	}
	n := copy(b, f.content[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes in pieces, each of which may reach the disk, or not.
func (f *memoryFile) WriteAt(b []byte, at int64) (int, error) {
	how := f.d.call("write %s at %d", f.name, at)
	wrote := len(b)
	switch how {
	case before:
		wrote = 0
	case half:
		wrote /= 2
	}
	for rest, to := slices.Clone(b[:wrote]), at; len(rest) > 0; {
		n := min(len(rest), 1+f.d.rng.IntN(40))
		piece, where := rest[:n], to
		f.change(func(have []byte) []byte {
			if grow := int(where) + len(piece) - len(have); grow > 0 {
				have = append(have, make([]byte, grow)...)
			}
			copy(have[where:], piece)
			return have
		})
		rest, to = rest[n:], to+int64(n)
	}
	if how != 0 {
		return wrote, errFault
	}
	return wrote, nil
}

// Sync that fails may have lost what it was to sync: a process sees it, and no later sync writes it.
func (f *memoryFile) Sync() error {
	how := f.d.call("sync %s", f.name)
	for _, p := range f.pending {
		if how == 0 || how == after || f.d.rng.IntN(2) == 0 {
			f.stable = p(f.stable)
		}
	}
	f.pending = nil
	if how != 0 {
		return errFault
	}
	return nil
}

func (f *memoryFile) Truncate(size int64) error {
	return f.d.do(f.d.call("truncate %s to %d", f.name, size), func() {
		f.change(func(have []byte) []byte {
			if int(size) <= len(have) {
				return have[:size:size]
			}
			return append(have, make([]byte, int(size)-len(have))...)
		})
	})
}

func (f *memoryFile) size() (int64, error) { return int64(len(f.content)), nil }

func (f *memoryFile) Close() error { return nil }
