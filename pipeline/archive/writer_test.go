package archive

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shardcdc/pipeline/format"
)

// Of two exports to one file the second is refused, and the first one's file is whole.
func TestCreateAlone(t *testing.T) {
	o := newOrigin(t, format.Format{Name: format.Internal})
	o.publish(3)
	source := o.live()
	path := filepath.Join(t.TempDir(), "bank.cdc")
	if err := os.WriteFile(path+partSuffix, []byte(strings.Repeat("left by a crash", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := Create(path, Head{Subscription: o.sub, First: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Export(t.Context(), source, o.sub, path, Range{})
	wants(t, err, "another export writes "+path+partSuffix)
	_, last := source.Borders()
	for seq := range last {
		m, err := source.Get(t.Context(), seq+1)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(10, 10); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	onlyFile(t, path)
	_, _, err = Export(t.Context(), source, o.sub, path, Range{})
	wants(t, err, "it exists already")
	onlyFile(t, path)
}

// A lock on a file that has its name meanwhile is none on the next one.
func TestLockOfNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	f, err := os.Create(path + partSuffix)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, next := range []string{"", "another one's"} {
		if err := os.Rename(path+partSuffix, path); err != nil {
			t.Fatal(err)
		}
		if next != "" {
			if err := os.WriteFile(path+partSuffix, []byte(next), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if mine, err := lockPart(f); mine || err != nil {
			t.Errorf("next %q: mine %t, %v", next, mine, err)
		}
		if next == "" {
			if err := os.Rename(path, path+partSuffix); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A file that came meanwhile is not replaced, and a link of the part's name is not followed.
func TestCreateForeign(t *testing.T) {
	o := newOrigin(t, format.Format{Name: format.Internal})
	folder := t.TempDir()
	path := filepath.Join(folder, "bank.cdc")
	w, err := Create(path, Head{Subscription: o.sub, First: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("foreign"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = w.Finish(1, 1)
	wants(t, err, "it exists already")
	onlyFile(t, path)
	if b, err := os.ReadFile(path); err != nil || string(b) != "foreign" {
		t.Errorf("%q %v", b, err)
	}
	if err := os.Symlink(path, filepath.Join(folder, "b"+partSuffix)); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(filepath.Join(folder, "b"), Head{Subscription: o.sub, First: 1}); err == nil {
		t.Error("a link was followed")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "foreign" {
		t.Errorf("%q %v", b, err)
	}
}

func onlyFile(t *testing.T, path string) {
	t.Helper()
	if got, _ := filepath.Glob(path + "*"); len(got) != 1 || got[0] != path {
		t.Errorf("files: %s", got)
	}
}
