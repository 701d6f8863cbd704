package pipeline

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// held is a Content in memory, read in small pieces.
type held struct {
	body []byte
	size int64
	read func(io.Reader) io.Reader
}

func (h held) Size() int64 { return h.size }
func (h held) Release()    {}
func (h held) Open() (io.ReadCloser, error) {
	return io.NopCloser(h.read(bytes.NewReader(h.body))), nil
}

func message(prefix, content string) []byte {
	b := append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 9}, prefix...)
	b = append(b, 0, 0, byte(len(content)>>16), byte(len(content)>>8), byte(len(content)))
	return append(b, content...)
}

// Walk gives the same changes whether the body is in memory or elsewhere, however it comes in.
func TestWalkContent(t *testing.T) {
	f := &Fragment{}
	for i := range 300 {
		f.Append(message(fmt.Sprint("p", i), strings.Repeat("x", i%7*i)))
	}
	f.Append(message("large", strings.Repeat("y", 3*walkBytes)))
	f.Append(message("last", ""))
	list := func(f *Fragment) (all []string) {
		t.Helper()
		if err := f.Walk(func(c *Change) error {
			all = append(all, c.Prefix+" "+string(c.Content))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return all
	}
	want := list(f)
	if len(want) != f.Changes {
		t.Fatalf("%d changes, want %d", len(want), f.Changes)
	}
	for name, read := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "one byte": iotest.OneByteReader, "half": iotest.HalfReader, "data with EOF": iotest.DataErrReader,
	} {
		got := list(&Fragment{Content: held{f.Body, int64(len(f.Body)), read}})
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: %d changes differ", name, len(got))
		}
	}
}

// A body that ends early, by its bytes or by its size, is an error.
func TestWalkCutOff(t *testing.T) {
	whole := &Fragment{}
	whole.Append(message("a", "1"))
	whole.Append(message("b", "2"))
	n := len(whole.Body)
	same := func(r io.Reader) io.Reader { return r }
	for _, f := range []*Fragment{
		{Body: whole.Body[:n-1]},
		{Content: held{whole.Body[:n-1], int64(n), same}},
		{Content: held{whole.Body[:n/2], int64(n), same}},
		{Content: held{whole.Body, int64(n + 1), same}},
		{Content: held{whole.Body, int64(n), iotest.TimeoutReader}},
	} {
		if err := f.Walk(func(*Change) error { return nil }); err == nil {
			t.Errorf("%d bytes of %d: no error", n, f.Size())
		}
	}
}
