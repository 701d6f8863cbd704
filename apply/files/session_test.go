package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/wire"
)

// folder is a target in a real folder.
func folder(t *testing.T, change func(*Config)) *Target {
	t.Helper()
	cfg := Config{
		Folder: filepath.Join(t.TempDir(), "out"), Subscription: "s", Format: "sql", Head: testHead,
		Encoder: func([]Copying) Encoder { return lines{} },
	}
	if change != nil {
		change(&cfg)
	}
	target, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func open(t *testing.T, target *Target) apply.Session {
	t.Helper()
	s, err := target.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// groupOf is one unit with these transactions, behind a progress.
func groupOf(from apply.Progress, txs ...*pipeline.Transaction) apply.Group {
	to := apply.Progress{StreamID: "stream", CSN: from.CSN, Seq: from.Seq + 1, Stamp: 5}
	u := apply.Unit{End: apply.End{Seq: to.Seq}}
	if len(txs) > 0 {
		to.CSN = txs[len(txs)-1].CSN
		u.Unit = &wire.Unit{Previous: from.CSN, Last: to.CSN, Transactions: txs}
	}
	return apply.Group{From: from, To: to, Units: []apply.Unit{u}}
}

func plain(csn pipeline.CSN) *pipeline.Transaction {
	return &pipeline.Transaction{CSN: csn, Fragments: []*pipeline.Fragment{{}}}
}

func content(t *testing.T, target *Target, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(target.cfg.Folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const firstFile = "00000000000000000000"

// The lock of a session keeps others out, and a folder is one subscription's and of one form.
func TestFence(t *testing.T) {
	target := folder(t, nil)
	one := open(t, target)
	if _, err := target.Open(t.Context()); !errors.Is(err, errTaken) {
		t.Errorf("%v, want that the folder is taken", err)
	}
	g := groupOf(apply.Progress{}, plain(3))
	if err := one.Apply(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if err := one.Apply(t.Context(), g); !isFatal(err) {
		t.Errorf("%v, want that the group does not follow", err)
	}
	one.Close(t.Context())
	two := open(t, target)
	if p, _ := two.Progress(t.Context()); p != g.To {
		t.Errorf("at %s, want %s", p, g.To)
	}
	two.Close(t.Context())
	for want, change := range map[string]func(*Config){
		"holds files of subscription s in the format sql (), not of other in sql ()": func(c *Config) { c.Subscription = "other" },
		"not of s in json ()":          func(c *Config) { c.Format = "json" },
		"not of s in sql (idempotent)": func(c *Config) { c.Choices = "idempotent" },
	} {
		_, err := folder(t, func(c *Config) { c.Folder = target.cfg.Folder; change(c) }).Open(t.Context())
		if !isFatal(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	open(t, folder(t, func(c *Config) { c.Folder, c.Head = target.cfg.Folder, "-- a longer head\n" })) // of a later release
}

func isFatal(err error) bool {
	var fatal *apply.Fatal
	return errors.As(err, &fatal)
}

// What somebody did to the folder is found, and nothing is written over it.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"it has 20 bytes, its index says": func(dir string) error { return os.Truncate(dir+"/"+firstFile+".sql", 20) },
		"have the checksum":               func(dir string) error { return overwrite(dir+"/"+firstFile+".sql", 30, "X") },
		"line 2: the line is torn, and others follow": func(dir string) error {
			b, err := os.ReadFile(dir + "/" + firstFile + ".index")
			return errors.Join(err, overwrite(dir+"/"+firstFile+".index", int64(strings.Index(string(b), "\n")+30), "X"))
		},
		"line 1: the line is torn":        func(dir string) error { return overwrite(dir+"/"+firstFile+".index", 40, "X") },
		"the index is empty":              func(dir string) error { return os.Truncate(dir+"/"+firstFile+".index", 0) },
		"is gone, and its index is there": func(dir string) error { return os.Remove(dir + "/" + firstFile + ".sql") },
		"progress.json: the line is torn": func(dir string) error { return overwrite(dir+"/progress.json", 20, "X") },
	} {
		target := folder(t, nil)
		s := open(t, target)
		var at apply.Progress
		for _, g := range []apply.Group{groupOf(at, plain(1)), groupOf(apply.Progress{StreamID: "stream", CSN: 1, Seq: 1, Stamp: 5}, plain(2))} {
			if err := s.Apply(t.Context(), g); err != nil {
				t.Fatal(err)
			}
			at = g.To
		}
		if err := s.Apply(t.Context(), groupOf(at)); err != nil { // progress.json
			t.Fatal(err)
		}
		s.Close(t.Context())
		if err := damage(target.cfg.Folder); err != nil {
			t.Fatal(err)
		}
		if _, err := target.Open(t.Context()); !isFatal(err) || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %s", err, name)
		}
	}
}

func overwrite(path string, at int64, text string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), at)
	return errors.Join(err, f.Close())
}

// A full disk blocks, and when there is room again the worker goes on as if nothing had been.
func TestFullDisk(t *testing.T) {
	full := true
	target := folder(t, func(c *Config) { c.disk = &narrow{full: &full} })
	for range 2 {
		s := open(t, target)
		err := s.Apply(t.Context(), groupOf(apply.Progress{}, plain(1)))
		var blocked *apply.Blocked
		if !errors.As(err, &blocked) || !strings.Contains(err.Error(), "no space left on device. Try: make room on its disk; it goes on by itself") {
			t.Fatalf("%v, want Blocked", err)
		}
		s.Close(t.Context())
	}
	full = false
	s := open(t, target)
	if p, _ := s.Progress(t.Context()); p != (apply.Progress{}) {
		t.Errorf("at %s, want nowhere", p)
	}
	if err := s.Apply(t.Context(), groupOf(apply.Progress{}, plain(1))); err != nil {
		t.Fatal(err)
	}
	if got := content(t, target, firstFile+".sql"); got != testHead+lineOf(1, 0) {
		t.Errorf("the file holds %q", got)
	}
}

// narrow is a real disk that may be full: then half of what is written behind a file's head gets there.
type narrow struct {
	system
	full *bool
}

func (d *narrow) create(path string) (file, error) {
	f, err := d.system.create(path)
	return narrowFile{f, d.full}, err
}

func (d *narrow) open(path string) (file, error) {
	f, err := d.system.open(path)
	return narrowFile{f, d.full}, err
}

type narrowFile struct {
	file
	full *bool
}

func (f narrowFile) Stat() (fs.FileInfo, error) { return f.file.(realFile).Stat() }

func (f narrowFile) WriteAt(b []byte, at int64) (int, error) {
	if !*f.full || at == 0 {
		return f.file.WriteAt(b, at)
	}
	n, err := f.file.WriteAt(b[:len(b)/2], at)
	return n, errors.Join(err, &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
}

func TestMissingParent(t *testing.T) {
	target := folder(t, func(c *Config) { c.Folder = filepath.Join(c.Folder, "deeper") })
	var blocked *apply.Blocked
	if _, err := target.Open(t.Context()); !errors.As(err, &blocked) || !strings.Contains(err.Error(), "make the folder above it") {
		t.Errorf("%v, want Blocked", err)
	}
}

// refusing does not write one CSN.
type refusing struct{ lines }

func (r refusing) Encode(b *pipeline.Batch) ([]io.WriterTo, error) {
	for _, tx := range b.Transactions {
		if tx.CSN == 2 {
			return nil, errors.New("csn 2: no form")
		}
	}
	return r.lines.Encode(b)
}

// What has no form blocks; a careful attempt names it, and it can be skipped. Then the index says what is missing.
func TestUnwritable(t *testing.T) {
	target := folder(t, func(c *Config) { c.Encoder = func([]Copying) Encoder { return refusing{} } })
	f := &pipeline.Fragment{Relations: []pipeline.RelationUse{{Relation: &pipeline.Relation{ID: 7, Namespace: "public", Name: "t"}}}}
	f.Append([]byte{'I', 0, 0, 0, 7, 'N', 0, 0})
	g := groupOf(apply.Progress{}, plain(1), &pipeline.Transaction{CSN: 2, Fragments: []*pipeline.Fragment{f}}, plain(3))
	for _, careful := range []bool{false, true} {
		s := open(t, target)
		g.Careful = careful
		err := s.Apply(t.Context(), g)
		var blocked *apply.Blocked
		if want := map[bool]pipeline.CSN{true: 2}[careful]; !errors.As(err, &blocked) || blocked.CSN != want {
			t.Errorf("careful %t: %v, want Blocked at %s", careful, err, want)
		}
		s.Close(t.Context())
	}
	s := open(t, target)
	g.Skips = map[pipeline.CSN]apply.Skip{2: {CSN: 2, Reason: "odd", By: "me", At: time.Unix(0, 0)}}
	if err := s.Apply(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	s.Close(t.Context())
	if got, want := content(t, target, firstFile+".sql"), testHead+lineOf(1, 0)+lineOf(3, 2); got != want {
		t.Errorf("the file holds %q, want %q", got, want)
	}
	for _, want := range []string{`"skipped":[{"csn":"2","reason":"odd","by":"me","asked":"1970-01-01T00:00:00Z","changes":"\"public\".\"t\": 1 insert"}]`, `"transactions":2`, `"first":"1","last":"3"`} {
		if index := content(t, target, firstFile+".index"); !strings.Contains(index, want) {
			t.Errorf("the index has no %s:\n%s", want, index)
		}
	}
	open(t, target)
}

// copyMark is a transaction with a mark of a copy.
func copyMark(csn pipeline.CSN, shard pipeline.ShardID, m mark.Copy) *pipeline.Transaction {
	f := &pipeline.Fragment{Shard: shard}
	f.Append(mark.Message(mark.CopyPrefix, m.Content(), 0))
	return &pipeline.Transaction{CSN: csn, Fragments: []*pipeline.Fragment{f}}
}

// What is being copied survives restarts and new files, and encoders are told.
func TestCopies(t *testing.T) {
	var told [][]Copying
	target := folder(t, func(c *Config) {
		c.RotateBytes = 1 // a file for each group
		c.Encoder = func(copies []Copying) Encoder { told = append(told, copies); return lines{} }
	})
	tables := []mark.Table{{Schema: "b", Name: "keyed", Keyed: true}, {Schema: "a", Name: "bare"}}
	keyed := Copying{Schema: "b", Table: "keyed", Job: "j", Keyed: true}
	bare := Copying{Schema: "a", Table: "bare", Job: "j"}
	came := bare
	came.Arrived = []pipeline.ShardID{1}
	taken := Copying{Schema: "b", Table: "keyed", Job: "k", Keyed: true}
	var at apply.Progress
	for i, step := range []struct {
		shard pipeline.ShardID
		mark  mark.Copy
		want  []Copying
		from  pipeline.CSN
	}{
		{0, mark.Copy{Kind: mark.Begin, Job: "j", Tables: tables}, []Copying{bare, keyed}, 0},
		{0, mark.Copy{Kind: mark.Begin, Job: "j", Tables: tables}, []Copying{bare, keyed}, 0},
		{0, mark.Copy{Kind: mark.Rows, Job: "j", Tables: tables[:1]}, []Copying{bare, keyed}, 0},
		{1, mark.Copy{Kind: mark.Rows, Job: "j", Tables: tables[1:]}, []Copying{came, keyed}, 0},
		{1, mark.Copy{Kind: mark.Rows, Job: "old", Tables: tables[1:]}, []Copying{came, keyed}, 0},
		{1, mark.Copy{Kind: mark.High, Job: "j"}, []Copying{came, keyed}, 0},
		{0, mark.Copy{Kind: mark.Begin, Job: "k", Tables: tables[:1]}, []Copying{came, taken}, 0},
		{0, mark.Copy{Kind: mark.End, Job: "j", Tables: tables}, []Copying{taken}, 0},
		{0, mark.Copy{Kind: mark.End, Job: "k", Tables: tables[:1]}, nil, 9},
	} {
		s := open(t, target)
		csn := pipeline.CSN(i + 1)
		g := groupOf(at, copyMark(csn, step.shard, step.mark))
		if i%3 == 0 {
			g.Skips = map[pipeline.CSN]apply.Skip{csn: {CSN: csn}}
		}
		if err := s.Apply(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		at = g.To
		s.Close(t.Context())
		s = open(t, target)
		if diff := cmp.Diff(step.want, s.(*session).state.copies.Tables); diff != "" {
			t.Errorf("step %d:\n%s", i, diff)
		}
		if got := s.Copies(); got.ConsistentFrom != step.from || len(got.Tables) != len(step.want) {
			t.Errorf("step %d: %+v", i, got)
		}
		s.Close(t.Context())
	}
	if len(told) != 9+3 {
		t.Fatalf("%d encoders, want one for each group, and one behind each mark that was skipped", len(told))
	}
	for i, want := range map[int][]Copying{1: {bare, keyed}, 7: {came, keyed}} {
		if diff := cmp.Diff(want, told[i]); diff != "" {
			t.Errorf("encoder %d was told\n%s", i, diff)
		}
	}
}

// What is removed, moved or replaced while the worker writes takes nothing more: the next session finds what is left.
func TestTakenAway(t *testing.T) {
	for name, c := range map[string]struct {
		take func(dir string) error
		want pipeline.CSN // where the next session is; it begins with the first transaction where the folder is empty
		says string       // or why there is none
	}{
		"folder":   {os.RemoveAll, 0, ""},
		"moved":    {func(dir string) error { return os.Rename(dir, dir+".old") }, 0, ""},
		"lock":     {func(dir string) error { return os.Remove(dir + "/owner.lock") }, 1, ""},
		"index":    {func(dir string) error { return os.Remove(dir + "/" + firstFile + ".index") }, 0, ""},
		"data":     {func(dir string) error { return os.Remove(dir + "/" + firstFile + ".sql") }, 0, "is gone, and its index is there"},
		"replaced": {func(dir string) error { return replaced(dir + "/" + firstFile + ".sql") }, 1, ""},
	} {
		for _, beat := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s beat=%t", name, beat), func(t *testing.T) {
				target := folder(t, nil)
				s := open(t, target)
				g := groupOf(apply.Progress{}, plain(1))
				if err := s.Apply(t.Context(), g); err != nil {
					t.Fatal(err)
				}
				if err := c.take(target.cfg.Folder); err != nil {
					t.Fatal(err)
				}
				next := groupOf(g.To, plain(2))
				if beat {
					next = groupOf(g.To)
				}
				if err := s.Apply(t.Context(), next); err == nil || !strings.Contains(err.Error(), "was taken away") {
					t.Errorf("%v", err)
				}
				s.Close(t.Context())
				s, err := target.Open(t.Context())
				if err != nil {
					if c.says == "" || !strings.Contains(err.Error(), c.says) {
						t.Fatal(err)
					}
					return
				}
				defer s.Close(t.Context())
				if p, _ := s.Progress(t.Context()); p.CSN != c.want || c.says != "" {
					t.Errorf("at %s, want %s %s", p, c.want, c.says)
				}
			})
		}
	}
}

// replaced puts another file with the same content in the place of one, as editors do.
func replaced(path string) error {
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path+"~", b, 0o600)
	}
	return errors.Join(err, os.Rename(path+"~", path))
}

// A file whose index is long gets no further transactions: a start reads all of it.
func TestIndexRotates(t *testing.T) {
	defer func(max int64) { indexBytesMax = max }(indexBytesMax)
	indexBytesMax = 1500
	target := folder(t, nil)
	s, at := open(t, target), apply.Progress{}
	for csn := range pipeline.CSN(20) {
		g := groupOf(at, plain(csn+1))
		if err := s.Apply(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		at = g.To
	}
	indexes, err := filepath.Glob(filepath.Join(target.cfg.Folder, "*.index"))
	if err != nil || len(indexes) < 3 {
		t.Fatalf("%q, %v", indexes, err)
	}
	for _, name := range indexes {
		if info, err := os.Stat(name); err != nil || info.Size() > 2*indexBytesMax {
			t.Errorf("%s: %d bytes, %v", name, info.Size(), err)
		}
	}
}

// A heartbeat closes a file that is old enough, and an idle folder does not grow.
func TestIdle(t *testing.T) {
	now := time.Unix(1e9, 0)
	target := folder(t, func(c *Config) { c.Now = func() time.Time { return now } })
	s := open(t, target)
	g := groupOf(apply.Progress{}, plain(5))
	if err := s.Apply(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	index := content(t, target, firstFile+".index")
	beat := func() {
		t.Helper()
		g = groupOf(g.To)
		if err := s.Apply(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		beat()
	}
	if content(t, target, firstFile+".index") != index {
		t.Error("heartbeats make the index grow")
	}
	now = now.Add(time.Hour)
	beat()
	if got := content(t, target, "00000000000000000005.sql"); got != testHead {
		t.Errorf("the next file holds %q", got)
	}
	now = now.Add(time.Hour)
	beat() // one without transactions stays
	s.Close(t.Context())
	names, err := filepath.Glob(filepath.Join(target.cfg.Folder, "*.index"))
	if len(names) != 2 || err != nil {
		t.Errorf("%q, %v", names, err)
	}
	for _, name := range []string{".sql", ".index"} { // readers may take away what is complete
		if err := os.Remove(filepath.Join(target.cfg.Folder, firstFile+name)); err != nil {
			t.Fatal(err)
		}
	}
	if p, _ := open(t, target).Progress(t.Context()); p != g.To {
		t.Errorf("at %s, want %s", p, g.To)
	}
}

// spilled is a body that is not in memory.
type spilled struct{ size int64 }

func (s spilled) Size() int64 { return s.size }

func (s spilled) Open() (io.ReadCloser, error) { return nil, &apply.ReadError{Err: errors.New("gone")} }
func (s spilled) Release()                     {}

// A transaction that is not in memory is alone in its batch, and an error of reading it is passed on as it is.
func TestLarge(t *testing.T) {
	var batches []string
	target := folder(t, func(c *Config) {
		c.Encoder = func([]Copying) Encoder { return &noting{batches: &batches} }
	})
	s := open(t, target)
	large := &pipeline.Transaction{CSN: 3, Fragments: []*pipeline.Fragment{{Content: spilled{5}}}}
	if s.Streams(large) {
		t.Error("a transaction is to be written while it arrives")
	}
	if err := s.Apply(t.Context(), groupOf(apply.Progress{}, plain(1), plain(2), large, plain(4), plain(5))); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(batches, " "); got != "0:1,2 2:3 3:4,5" {
		t.Errorf("batches %s", got)
	}
	gone := &pipeline.Transaction{CSN: 6, Fragments: []*pipeline.Fragment{{Content: spilled{5}, Ops: pipeline.OpsOf(pipeline.Message)}}}
	err := s.Apply(t.Context(), groupOf(apply.Progress{StreamID: "stream", CSN: 5, Seq: 1, Stamp: 5}, gone))
	var read *apply.ReadError
	if !errors.As(err, &read) || isFatal(err) {
		t.Errorf("%v, want the error of reading", err)
	}
}

// noting writes down its batches.
type noting struct {
	lines
	batches *[]string
}

func (n *noting) Encode(b *pipeline.Batch) ([]io.WriterTo, error) {
	var csns []string
	for _, tx := range b.Transactions {
		csns = append(csns, tx.CSN.String())
	}
	*n.batches = append(*n.batches, fmt.Sprintf("%s:%s", b.Previous, strings.Join(csns, ",")))
	return n.lines.Encode(b)
}

// BenchmarkApply: what a commit costs on this machine's disk.
func BenchmarkApply(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	h := newHistory(rng, b.N)
	target, err := New(Config{
		Folder: filepath.Join(b.TempDir(), "out"), Subscription: "s", Format: "sql", Encoder: func([]Copying) Encoder { return lines{} },
	})
	if err != nil {
		b.Fatal(err)
	}
	s, err := target.Open(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(b.Context())
	b.ResetTimer()
	for _, g := range h {
		if err := s.Apply(b.Context(), g); err != nil {
			b.Fatal(err)
		}
	}
}
