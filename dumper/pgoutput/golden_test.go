package pgoutput_test

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shardcdc/dumper/pgoutput"
	"shardcdc/pipeline"
)

// recorded reads testdata/stream.txt.
func recorded(t testing.TB) (lsns []pipeline.LSN, msgs [][]byte) {
	t.Helper()
	file, err := os.Open("testdata/stream.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		fields := strings.Fields(lines.Text())
		lsn, err := pipeline.ParseLSN(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		msg, err := hex.DecodeString(fields[2])
		if err != nil {
			t.Fatal(err)
		}
		if fields[0] != string(msg[:1]) {
			t.Fatalf("line %q: the type is %q", lines.Text(), msg[0])
		}
		lsns, msgs = append(lsns, lsn), append(msgs, msg)
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	return lsns, msgs
}

// TestRecorded feeds what a real server sent and compares what comes out, in a readable form.
func TestRecorded(t *testing.T) {
	lsns, msgs := recorded(t)
	a := pgoutput.New(3, pgoutput.Limits{})
	var got []string
	for i, msg := range msgs {
		rec, ok, err := a.Feed(lsns[i], scratch(msg))
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			continue
		}
		if rec.Kind != pipeline.RollbackPrepared && rec.Start >= rec.End {
			t.Errorf("%v: start %s, end %s", rec.Kind, rec.Start, rec.End)
		}
		if rec.End != lsns[i] && rec.Kind != pipeline.Commit {
			t.Errorf("%v ends at %s, but was sent at %s", rec.Kind, rec.End, lsns[i])
		}
		got = append(got, describe(t, rec)...)
	}
	want := []string{
		"commit",
		"  insert public.t 1, ok, xxxxxxxxxx", "  insert public.t 2, NULL, y*2100",
		"commit", "  update public.t -> 2, sad, unchanged",
		"commit", "  update public.t key 2, NULL, NULL -> 3, sad, unchanged",
		"commit", "  delete public.t key 3, NULL, NULL",
		"commit", "  insert public.f 1, NULL",
		"commit", "  update public.f full 1, NULL -> 1, ",
		"commit", "  delete public.f full 1, ",
		"commit", "  truncate public.t public.f flags 3",
		"prepare g1", "  insert public.t 7, NULL, NULL", "  message app inside",
		"commit prepared g1",
		"prepare g2", "  insert public.t 8, NULL, NULL",
		"rollback prepared g2",
		"commit from node_b at 2024-01-02T03:04:05.000000Z", "  insert public.f 9, o",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// scratch returns a copy of msg that is overwritten by the next call, as a network buffer is.
var scratch = func() func([]byte) []byte {
	var buf []byte
	return func(msg []byte) []byte {
		for i := range buf {
			buf[i] = 0xAA
		}
		buf = append(buf[:0], msg...)
		return buf
	}
}()

func describe(t *testing.T, rec pipeline.Record) []string {
	t.Helper()
	head := rec.Kind.String()
	if rec.GID != "" {
		head += " " + rec.GID
	}
	f := rec.Fragment
	if f == nil {
		return []string{head}
	}
	if f.Shard != 3 || f.XID != rec.XID || f.GID != rec.GID || f.Start != rec.Start || f.End != rec.End || f.Time != rec.Time {
		t.Errorf("record %+v does not repeat its fragment %s", rec, f)
	}
	if f.Origin != "" {
		head += fmt.Sprintf(" from %s at %s", f.Origin, f.Time)
	}
	out := []string{head}
	err := f.Walk(func(c *pipeline.Change) error {
		out = append(out, "  "+change(c))
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if f.Changes != len(out)-1 {
		t.Errorf("fragment %s: %d changes counted, %d walked", f, f.Changes, len(out)-1)
	}
	return out
}

func change(c *pipeline.Change) string {
	s := c.Op.String()
	switch c.Op {
	case pipeline.Truncate:
		for _, r := range c.Truncated {
			s += " " + r.String()
		}
		return fmt.Sprintf("%s flags %d", s, c.TruncateFlags)
	case pipeline.Message:
		return fmt.Sprintf("%s %s %s", s, c.Prefix, c.Content)
	}
	s += " " + c.Relation.String()
	switch c.OldKind {
	case pipeline.OldKey:
		s += " key " + row(c.Old)
	case pipeline.OldFull:
		s += " full " + row(c.Old)
	}
	if c.New != nil {
		if c.Op == pipeline.Update {
			s += " ->"
		}
		s += " " + row(c.New)
	}
	return s
}

func row(t pipeline.Tuple) string {
	var parts []string
	for _, v := range t.Values(nil) {
		switch {
		case v.Kind == pipeline.Null:
			parts = append(parts, "NULL")
		case v.Kind == pipeline.Unchanged:
			parts = append(parts, "unchanged")
		case len(v.Data) > 100:
			parts = append(parts, fmt.Sprintf("%c*%d", v.Data[0], len(v.Data)))
		default:
			parts = append(parts, string(v.Data))
		}
	}
	return strings.Join(parts, ", ")
}
