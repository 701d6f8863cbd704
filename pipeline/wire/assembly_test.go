package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"shardcdc/pipeline"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// kept is a body that is elsewhere: its size is what was announced, not what there is.
type kept struct {
	data []byte
	size int64
	err  error // of the reader, behind data
}

func keep(data []byte) *kept { return &kept{data: data, size: int64(len(data))} }

func (k *kept) Size() int64 { return k.size }
func (k *kept) Release()    {}
func (k *kept) Open() (io.ReadCloser, error) {
	if k.err != nil {
		return io.NopCloser(io.MultiReader(bytes.NewReader(k.data), iotest.ErrReader(k.err))), nil
	}
	return io.NopCloser(bytes.NewReader(k.data)), nil
}

// elsewhere moves bodies out of memory: those of the fragments that choose says.
func elsewhere(b *pipeline.Batch, choose func() bool) *pipeline.Batch {
	for _, tx := range b.Transactions {
		for _, f := range tx.Fragments {
			if choose() {
				f.Content, f.Body = keep(f.Body), nil
			}
		}
	}
	return b
}

func always() bool { return true }

func TestFrameIsTheUnit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := drawBatch(t)
		var e Encoder
		want, err := e.AppendUnit(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		f, err := e.Frame(elsewhere(b, func() bool { return rapid.Bool().Draw(t, "elsewhere") }))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // a retry writes the same
			var got bytes.Buffer
			n, err := f.WriteTo(&got)
			if err != nil || n != f.Size() || !bytes.Equal(got.Bytes(), want) {
				t.Fatalf("%d of %d bytes, %v", n, f.Size(), err)
			}
		}
	})
}

func TestFrameRefuses(t *testing.T) {
	broken := errors.New("disk gone")
	first := func(b *pipeline.Batch) *pipeline.Fragment { return b.Transactions[0].Fragments[0] }
	for name, c := range map[string]struct {
		spoil func(b *pipeline.Batch)
		want  string
	}{
		"csn":      {func(b *pipeline.Batch) { b.Previous = 1 << 63 }, "CSNs must rise"},
		"relation": {func(b *pipeline.Batch) { first(b).Relations[0].Relation = nil }, "no usable description"},
		"longer":   {func(b *pipeline.Batch) { first(b).Content.(*kept).size = 27 }, "body is longer than the 27 bytes announced"},
		"shorter":  {func(b *pipeline.Batch) { first(b).Content.(*kept).size = 29 }, "body ends 1 bytes before its 29"},
		"reader":   {func(b *pipeline.Batch) { first(b).Content.(*kept).err = broken }, "read the body: disk gone"},
		"unopened": {func(b *pipeline.Batch) { first(b).Content = Announced(28) }, "body of 28 bytes has not arrived"},
		"kind":     {func(b *pipeline.Batch) { first(b).Ops = pipeline.OpsOf(pipeline.Delete) }, "change 1 of 1 is insert, which the fragment does not announce (0x4)"},
		"count":    {func(b *pipeline.Batch) { first(b).Changes = 2 }, "1 changes in the body, 2 announced"},
		"cut off": {func(b *pipeline.Batch) {
			k := first(b).Content.(*kept)
			k.data = binary.BigEndian.AppendUint32(nil, 25)
			k.data = append(k.data, make([]byte, 24)...)
		}, "change 1 of 1 is cut off"},
	} {
		b := elsewhere(sample(), always)
		c.spoil(b)
		f, err := new(Encoder).Frame(b)
		if err == nil {
			var whole bytes.Buffer
			if _, err = f.WriteTo(&whole); err != nil && int64(whole.Len()) >= f.Size() {
				t.Errorf("%s: all of it was written", name)
			}
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	f, err := new(Encoder).Frame(sample())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteTo(refusing{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a writer's refusal: %v", err)
	}
}

type refusing struct{}

func (refusing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// assemble reads parts as a reader does that keeps the bodies.
func assemble(parts [][]byte) (*Unit, error) {
	var a *Assembly
	var d Decoder
	var u *Unit
	for i, part := range parts {
		if i == 0 {
			a = d.Begin(len(parts))
		}
		if err := a.Expect(i+1, len(parts)); err != nil {
			return nil, err
		}
		pieces, err := a.Add(part)
		if err != nil {
			return nil, err
		}
		if u == nil && a.Head() != nil {
			u = a.Head()
			if err := checkAnnounced(a, u); err != nil {
				return nil, err
			}
		}
		for _, p := range pieces {
			f := u.Transactions[p.Transaction].Fragments[p.Fragment]
			f.Body = append(f.Body, p.Data...)
		}
	}
	if err := a.End(); err != nil {
		return nil, err
	}
	for t, tx := range u.Transactions {
		for i, f := range tx.Fragments {
			if f.Content = nil; f.Size() != a.Size(t, i) {
				return nil, fmt.Errorf("fragment %s has %d bytes of %d", f, f.Size(), a.Size(t, i))
			}
		}
	}
	return u, nil
}

func checkAnnounced(a *Assembly, u *Unit) error {
	for t, tx := range u.Transactions {
		for i, f := range tx.Fragments {
			if f.Body != nil || (f.Content == nil) != (a.Size(t, i) == 0) || f.Size() != a.Size(t, i) {
				return fmt.Errorf("head: fragment %s of %d bytes has body %v, content %v", f, a.Size(t, i), f.Body, f.Content)
			}
		}
	}
	return nil
}

// cuts splits b at random into parts of at least one byte.
func cuts(b []byte, size func() int) (parts [][]byte) {
	for len(b) > 0 {
		n := min(size(), len(b))
		parts, b = append(parts, b[:n]), b[n:]
	}
	return parts
}

// Whatever the parts, an Assembly reads what DecodeUnit reads of the whole.
func TestAssembly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frame, err := new(Encoder).AppendUnit(nil, drawBatch(t))
		if err != nil {
			t.Fatal(err)
		}
		most := rapid.SampledFrom([]int{1, 5, 50, 1000}).Draw(t, "most")
		parts := cuts(frame, func() int { return rapid.IntRange(1, most).Draw(t, "part") })
		got, err := assemble(parts)
		if err != nil {
			t.Fatal(err)
		}
		want, err := DecodeUnit(frame)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

// A head is there as soon as its last byte is.
func TestHeadComesFirst(t *testing.T) {
	frame := encode(t, sample())
	_, size := lengths(frame)
	a := new(Decoder).Begin(3)
	if _, err := a.Add(frame[:size-1]); err != nil || a.Head() != nil {
		t.Fatal(err, a.Head())
	}
	if pieces, err := a.Add(frame[size-1 : size]); err != nil || a.Head() == nil || len(pieces) != 0 {
		t.Fatal(err, a.Head(), pieces)
	}
	f := a.Head().Transactions[0].Fragments[1]
	if f.Changes != 2 || f.Ops != pipeline.OpsOf(pipeline.Insert) || f.Size() != 60 || a.Head().Transactions[0].Resident() {
		t.Errorf("%+v", f)
	}
	if _, err := f.OpenBody(); err == nil || err.Error() != "body of 60 bytes has not arrived" {
		t.Error(err)
	}
	if err := a.End(); err == nil || err.Error() != "decode unit: 2 parts of 3" {
		t.Error(err)
	}
}

// Every changed byte and every lost, doubled or swapped part is an error at the end at the latest.
func TestAssemblyDamage(t *testing.T) {
	whole := encode(t, sample())
	for i := range whole {
		for _, x := range []byte{1, 0x80, 0xff} {
			damaged := bytes.Clone(whole)
			damaged[i] ^= x
			for _, size := range []int{1, 7, 100, len(whole)} {
				if _, err := assemble(Split(damaged, size)); err == nil {
					t.Fatalf("byte %d ^ %#x in parts of %d: accepted", i, x, size)
				}
			}
		}
		if _, err := assemble(Split(whole[:max(i, 1)], 10)); err == nil {
			t.Fatalf("cut to %d bytes: accepted", i)
		}
	}
	for _, spoil := range []func(p [][]byte) [][]byte{
		func(p [][]byte) [][]byte { return append(p[:3:3], p[4:]...) },
		func(p [][]byte) [][]byte { return append(p, []byte{0}) },
		func(p [][]byte) [][]byte { return append(p[:3:3], p[2:]...) },
		func(p [][]byte) [][]byte { p[4], p[5] = p[5], p[4]; return p },
		func(p [][]byte) [][]byte { n := len(p) - 2; p[n], p[n-1] = p[n-1], p[n]; return p },
		func(p [][]byte) [][]byte { p[4] = nil; return p },
	} {
		if _, err := assemble(spoil(Split(whole, 20))); err == nil {
			t.Error("accepted")
		}
	}
}

func TestAssemblyRefuses(t *testing.T) {
	huge := withContent(0, 0, 0, 0)
	binary.BigEndian.PutUint64(huge[lengthAt:], 1<<40)
	binary.BigEndian.PutUint64(huge[lengthAt+8:], headBytesMax+1)
	long := withContent(0, 0, 0, 0)
	binary.BigEndian.PutUint64(long[lengthAt:], 1<<63)
	for name, c := range map[string]struct {
		frame []byte
		want  string
	}{
		"head":    {huge, "part 1/2: its head of 67108865 bytes exceeds 67108864"},
		"length":  {long, "part 1/2: length 9223372036854775808: number out of range"},
		"version": {bytes.Replace(encode(t, sample()), []byte{Version, 0}, []byte{9, 0}, 1), "version 9 is unknown"},
		"json":    {bytes.Repeat([]byte(`{"csn":"7"}`), 9), `begins with "{\"cs"`},
		"longer":  {seal(append(encode(t, sample()), 0)), "1 bytes of bodies too many"},
	} {
		a := new(Decoder).Begin(2)
		_, err := a.Add(c.frame)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if _, again := a.Add([]byte("x")); again != err || a.End() != err {
			t.Errorf("%s: the error was forgotten: %v", name, again)
		}
	}
	for want, a := range map[string]*Assembly{
		"part 2/3 of a payload follows no first part":  nil,
		"part 2/3 of a payload of 3 parts comes first": new(Decoder).Begin(3),
		"part 2/3 of a payload follows part 2/3":       {parts: 2, of: 3},
		"part 2/3 of a payload follows part 1/4":       {parts: 1, of: 4},
	} {
		if err := a.Expect(2, 3); err == nil || err.Error() != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A body of any size takes no more memory than the head.
func TestAssemblyKeepsNothing(t *testing.T) {
	const part, parts = 1 << 20, 64
	f := &pipeline.Fragment{End: 9}
	message := append([]byte{'I'}, make([]byte, part)...)
	for f.Size() < (parts-1)*part {
		f.Append(message)
	}
	frame := encode(t, &pipeline.Batch{Transactions: []*pipeline.Transaction{{CSN: 1, Fragments: []*pipeline.Fragment{f}}}})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	a := new(Decoder).Begin(len(Split(frame, part)))
	size := 0
	for _, data := range Split(frame, part) {
		pieces, err := a.Add(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pieces {
			size += len(p.Data)
		}
	}
	runtime.ReadMemStats(&after)
	if err := a.End(); err != nil || size != len(f.Body) {
		t.Fatal(size, err)
	}
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 64<<10 {
		t.Errorf("%d bytes allocated for a frame of %d", taken, len(frame))
	}
}

// FuzzAssembly: an Assembly accepts what DecodeUnit accepts, and reads the same.
func FuzzAssembly(f *testing.F) {
	f.Add(encode(f, sample()), uint64(3))
	f.Add(encode(f, &pipeline.Batch{Previous: 7}), uint64(1))
	f.Fuzz(func(t *testing.T, frame []byte, seed uint64) {
		if len(frame) == 0 {
			return
		}
		for _, fr := range [][]byte{frame, seal(bytes.Clone(frame))} {
			r := rand.New(rand.NewPCG(seed, 0))
			got, err := assemble(cuts(fr, func() int { return 1 + r.IntN(1+int(seed%100)) }))
			want, wantErr := DecodeUnit(fr)
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("in parts: %v; whole: %v", err, wantErr)
			}
			if diff := cmp.Diff(want, got); err == nil && diff != "" {
				t.Fatal(diff)
			}
		}
	})
}
