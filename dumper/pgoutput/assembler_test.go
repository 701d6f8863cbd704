package pgoutput_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"shardcdc/dumper/pgoutput"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// feed expects every message to be right and returns the records.
func feed(t *testing.T, a *pgoutput.Assembler, msgs ...[]byte) []pipeline.Record {
	t.Helper()
	var recs []pipeline.Record
	for _, msg := range msgs {
		rec, ok, err := a.Feed(0, scratch(msg))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			recs = append(recs, rec)
		}
	}
	return recs
}

func TestRelationsOfAFragment(t *testing.T) {
	a := pgoutput.New(0, pgoutput.Limits{})
	recs := feed(t, a,
		relation(1, "public.a", "x"), begin(0x100), insert(1, "1"), insert(1, "2"),
		relation(2, "public.b", "x"), insert(2, "3"),
		relation(1, "public.a", "x", "y"), insert(2, "4"), insert(1, "5", "6"), commit(0x100),
		begin(0x200), insert(1, "7", "8"), commit(0x200),
		relation(1, "public.a", "x", "y"), // as before
		begin(0x300), insert(1, "9", "9"), truncate(2, 1), commit(0x300))
	uses := func(f *pipeline.Fragment) (s []string) {
		for _, u := range f.Relations {
			s = append(s, fmt.Sprintf("%d %s/%d", u.Offset, u.Relation, len(u.Relation.Columns)))
		}
		return s
	}
	size := 4 + len(insert(1, "1"))
	want := [][]string{
		{"0 public.a/1", fmt.Sprintf("%d public.b/1", 2*size), fmt.Sprintf("%d public.a/2", 4*size)},
		{"0 public.a/2"},
		{"0 public.a/2", fmt.Sprintf("%d public.b/1", 4+len(insert(1, "9", "9")))},
	}
	for i, rec := range recs {
		if d := cmp.Diff(want[i], uses(rec.Fragment)); d != "" {
			t.Errorf("fragment %d: %s", i, d)
		}
		if err := rec.Fragment.Walk(func(*pipeline.Change) error { return nil }); err != nil {
			t.Error(err)
		}
	}
	if recs[1].Fragment.Relations[0].Relation != recs[2].Fragment.Relations[0].Relation {
		t.Error("the same description, sent again, is another pointer")
	}
}

func TestRelationVersionFollowsItsTypes(t *testing.T) {
	a := pgoutput.New(0, pgoutput.Limits{})
	version := func(l pipeline.LSN, before ...[]byte) *pipeline.Relation {
		msgs := append(before, relation(1, "public.a", "x:16400"), begin(l), insert(1, "1"), commit(l))
		return feed(t, a, msgs...)[0].Fragment.Relations[0].Relation
	}
	first := version(0x100, typ(16400, "public", "mood"))
	if name, ok := first.TypeName(16400); !ok || name.Name != "mood" {
		t.Errorf("type of the column: %v %v", name, ok)
	}
	if version(0x200, typ(16400, "public", "mood")) != first {
		t.Error("the same types, another pointer")
	}
	renamed := version(0x300, typ(16400, "public", "humour"))
	if renamed == first {
		t.Error("another type name, the same pointer")
	}
	a.Reset()
	if version(0x400, typ(16400, "public", "humour")) != renamed {
		t.Error("the same description in the next session is another pointer")
	}
	if r := version(0x500, typ(16400, "", "int4")); r.Types[0].Namespace != "pg_catalog" {
		t.Errorf("an empty namespace became %q", r.Types[0].Namespace)
	}
}

func TestResetForgetsWhatWasHalfReceived(t *testing.T) {
	a := pgoutput.New(0, pgoutput.Limits{})
	feed(t, a, relation(1, "public.a", "x"), begin(0x100), insert(1, "1"))
	if start, open := a.Open(); !open || start != 0x100 {
		t.Errorf("open at %s %v, want 0/100", start, open)
	}
	a.Reset()
	if _, open := a.Open(); open {
		t.Error("still open")
	}
	feed(t, a, begin(0x100))
	if _, _, err := a.Feed(0, insert(1, "1")); err == nil {
		t.Error("a relation of the last session serves without being described again")
	}
}

func TestLeftOutOfTheBody(t *testing.T) {
	a := pgoutput.New(0, pgoutput.Limits{})
	rec := feed(t, a,
		relation(1, "public.a", "x"), relation(2, ".pg_dist_transaction", "groupid", "gid", "outer_xid"),
		relation(3, ".pg_dist_placement", "x"), message(0, "app", "loose"),
		begin(0x100), message(1, "cdc.probe", ""), insert(3, "1"), update(3, "1"), deleteKey(2, "1", "2", "3"),
		insert(2, "1", "citus_0_1_2_3", "7"), truncate(3, 1), truncate(3), insert(2, "2", "citus_0_1_2_4", "7"), commit(0x100))[0]
	got := describe3(rec)
	if d := cmp.Diff([]string{"  truncate public.a flags 1"}, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"citus_0_1_2_3", "citus_0_1_2_4"}, rec.Fragment.Decides); d != "" {
		t.Error(d)
	}
}

// Of the marks only the subscription's own stay: others may write messages that look like one.
func TestMarksProveWhoWroteThem(t *testing.T) {
	a := pgoutput.New(0, pgoutput.Limits{})
	a.Token = "secret"
	mine := mark.Copy{Token: "secret", Kind: mark.End, Job: "j"}
	forged := mark.Copy{Token: "", Kind: mark.Begin, Job: "j", TargetRows: mark.TargetTruncate}
	another := mark.DDL{Token: "of another subscription", Statement: "DROP TABLE a"}
	rec := feed(t, a, begin(0x100),
		message(1, mark.CopyPrefix, string(forged.Content())), message(1, mark.DDLPrefix, string(another.Content())),
		message(1, mark.DDLPrefix, "nonsense"), message(1, mark.CopyPrefix, string(mine.Content())), commit(0x100))[0]
	n := 0
	err := rec.Fragment.Walk(func(c *pipeline.Change) error {
		n++
		if m, ok, err := mark.CopyOf(c); err != nil || !ok || m.Kind != mark.End {
			t.Errorf("kept %q %s", c.Prefix, c.Content)
		}
		return nil
	})
	if n != 1 || err != nil {
		t.Errorf("%d messages kept, %v", n, err)
	}
}

func describe3(rec pipeline.Record) (out []string) {
	_ = rec.Fragment.Walk(func(c *pipeline.Change) error {
		out = append(out, "  "+change(c))
		return nil
	})
	return out
}

// TestATableNamedLikeCitusMetadata: only pg_catalog's tables are Citus'.
func TestATableNamedLikeCitusMetadata(t *testing.T) {
	rec := feed(t, pgoutput.New(0, pgoutput.Limits{}), relation(1, "public.pg_dist_transaction", "gid"),
		begin(0x100), insert(1, "x"), commit(0x100))[0]
	if rec.Fragment.Changes != 1 || rec.Fragment.Decides != nil {
		t.Errorf("%d changes, decides %q", rec.Fragment.Changes, rec.Fragment.Decides)
	}
}

// TestPrepareAlone: what PostgreSQL 18 says of a prepared transaction that only locked rows.
func TestPrepareAlone(t *testing.T) {
	a := pgoutput.New(3, pgoutput.Limits{})
	recs := feed(t, a, relation(1, "public.a", "x"), prepare(0x100, "g"), begin(0x300), insert(1, "1"), commit(0x300))
	if len(recs) != 2 {
		t.Fatalf("%d records", len(recs))
	}
	p := recs[0]
	if f := p.Fragment; p.Kind != pipeline.Prepare || p.GID != "g" || f == nil || f.Changes != 0 || f.GID != "g" || f.Shard != 3 || f.Start != p.Start || f.End != p.End || f.XID != p.XID {
		t.Errorf("%+v", p)
	}
	if recs[1].Fragment.Changes != 1 {
		t.Errorf("%+v", recs[1])
	}
}

func TestRefused(t *testing.T) {
	rel := relation(1, "public.a", "x")
	for _, test := range []struct {
		name string
		msgs [][]byte
		want string
	}{
		{"empty message", [][]byte{{}}, "empty message"},
		{"unknown", [][]byte{{'Z'}}, "unknown message type"},
		{"row outside", [][]byte{rel, insert(1, "1")}, "outside a transaction"},
		{"truncate outside", [][]byte{rel, truncate(1)}, "outside a transaction"},
		{"message outside", [][]byte{message(1, "a", "b")}, "outside a transaction"},
		{"loose message inside", [][]byte{begin(1), message(0, "a", "b")}, "inside a transaction"},
		{"loose message cut off", [][]byte{message(0, "a", "b")[:12]}, "too short"},
		{"origin outside", [][]byte{origin("n")}, "outside a transaction"},
		{"origin late", [][]byte{rel, begin(1), insert(1, "1"), origin("n")}, "not directly after the begin"},
		{"origin twice", [][]byte{begin(1), origin("n"), origin("n")}, "not directly after the begin"},
		{"origin without name", [][]byte{begin(1), origin("")}, "no name"},
		{"commit alone", [][]byte{commit(1)}, "without the B before"},
		{"commit of a prepare", [][]byte{beginPrepare(1, "g"), commit(1)}, "without the B before"},
		{"prepare alone, without a gid", [][]byte{prepare(1, "")}, "has no gid"},
		{"prepare of a commit", [][]byte{begin(1), prepare(1, "g")}, "without the b before"},
		{"begin in begin", [][]byte{begin(1), begin(2)}, "inside a transaction"},
		{"second phase inside", [][]byte{begin(1), commitPrepared(2, "g")}, "inside a transaction"},
		{"rollback inside", [][]byte{begin(1), rollbackPrepared(1, 2, "g")}, "inside a transaction"},
		{"commit elsewhere", [][]byte{begin(1), commit(2)}, "does not match the begin"},
		{"commit at another time", [][]byte{begin(1), build('C', byte(0), pipeline.LSN(1), pipeline.LSN(9), clock(2))}, "does not match"},
		{"commit without length", [][]byte{begin(1), build('C', byte(0), pipeline.LSN(1), pipeline.LSN(1), clock(1))}, "does not match"},
		{"prepare elsewhere", [][]byte{beginPrepare(1, "g"), prepare(2, "g")}, "does not match the begin"},
		{"prepare of another gid", [][]byte{beginPrepare(1, "g"), prepare(1, "h")}, `gid "h"`},
		{"prepare of another xid", [][]byte{
			beginPrepare(1, "g"),
			build('P', byte(0), pipeline.LSN(1), pipeline.LSN(1+recordSize), clock(1), 701, "g"),
		}, "xid 701"},
		{"gid empty", [][]byte{beginPrepare(1, "")}, "gid is empty"},
		{"second phase without gid", [][]byte{commitPrepared(1, "")}, "gid is empty"},
		{"rollback backwards", [][]byte{rollbackPrepared(5, 5, "g")}, "before it begins"},
		{"flags", [][]byte{build('K', byte(4), pipeline.LSN(1), pipeline.LSN(2), clock(1), 7, "g")}, "unknown flags 0x4"},
		{"relation unknown", [][]byte{begin(1), insert(1, "1")}, "relation 1 was never described"},
		{"truncate unknown", [][]byte{rel, begin(1), truncate(1, 2)}, "relation 2 was never described"},
		{"too many values", [][]byte{rel, begin(1), insert(1, "1", "2")}, "2 values for 1 columns"},
		{"too few old values", [][]byte{rel, begin(1), deleteKey(1)}, "0 values for 1 columns"},
		{"cut off row", [][]byte{rel, begin(1), insert(1, "1")[:9]}, "too short"},
		{"long begin", [][]byte{append(begin(1), 0)}, "1 bytes too many"},
		{"short relation", [][]byte{rel[:len(rel)-1]}, "too short"},
		{"gid column missing", [][]byte{relation(2, ".pg_dist_transaction", "x"), begin(1), insert(2, "1")}, "without its column gid"},
		{"gid null", [][]byte{
			relation(2, ".pg_dist_transaction", "gid"), begin(1), build('I', 2, byte('N'), []byte{0, 1, 'n'}),
		}, "gid of kind 'n'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := pgoutput.New(0, pgoutput.Limits{})
			last := len(test.msgs) - 1
			feed(t, a, test.msgs[:last]...)
			rec, ok, err := a.Feed(0x42, test.msgs[last])
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if ok || rec.Kind != 0 {
				t.Errorf("a record besides the error: %+v", rec)
			}
		})
	}
}

// TestEveryCutIsRefused cuts every recorded message at every place: never a panic, never taken for whole.
func TestEveryCutIsRefused(t *testing.T) {
	_, msgs := recorded(t)
	for i, msg := range msgs {
		if len(msg) > 200 {
			continue
		}
		for cut := range msg {
			a := pgoutput.New(0, pgoutput.Limits{})
			feed(t, a, msgs[:i]...)
			if _, _, err := a.Feed(0, msg[:cut]); err == nil {
				t.Errorf("%q cut at %d of %d is accepted", msg[0], cut, len(msg))
			}
		}
	}
}

// TestArbitraryMessages: whatever comes, no panic, and each fragment that comes out can be walked.
func TestArbitraryMessages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := [][]byte{
			relation(1, "public.a", "x"), relation(1, "public.a", "x", "y"), relation(2, ".pg_dist_transaction", "gid"),
			begin(0x100), commit(0x100), beginPrepare(0x200, "g"), prepare(0x200, "g"), commitPrepared(0x300, "g"),
			insert(1, "1"), insert(1, "1", "2"), insert(2, "g"), update(1, "1"), deleteKey(1, "1", "2"), truncate(1, 2),
			message(0, "a", "b"), message(1, "a", "b"), origin("n"), typ(16400, "", "m"),
			streamStart(10, true), streamStart(10, false), streamStart(20, true), streamStop(), streamAbort(10, 11), streamAbort(10, 10),
			streamCommit(10, 0x400), streamPrepare(20, 0x500, "g"), by(10, relation(1, "public.a", "x")), by(10, insert(1, "1")), by(11, insert(1, "1")),
		}
		limits, _ := spilled(rapid.IntRange(1, 200).Draw(t, "spill after"), rapid.IntRange(1, 400).Draw(t, "open"))
		a := pgoutput.New(0, limits)
		for _, msg := range rapid.SliceOf(rapid.SampledFrom(parts)).Draw(t, "messages") {
			if rapid.IntRange(0, 9).Draw(t, "mutate") == 0 {
				msg = mutate(t, msg)
			}
			rec, ok, err := a.Feed(0, scratch(msg))
			if err != nil {
				continue // a caller would stop here; going on must still be safe
			}
			if ok && rec.Fragment != nil {
				if err := rec.Fragment.Walk(func(*pipeline.Change) error { return nil }); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func mutate(t *rapid.T, msg []byte) []byte {
	msg = append([]byte(nil), msg...)
	msg[rapid.IntRange(0, len(msg)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
	return msg[:rapid.IntRange(0, len(msg)).Draw(t, "cut")]
}

func FuzzAssembler(f *testing.F) {
	_, msgs := recorded(f)
	for i := range msgs {
		if len(msgs[i]) < 200 {
			f.Add(msgs[i], i)
		}
	}
	f.Fuzz(func(t *testing.T, msg []byte, after int) {
		a := pgoutput.New(0, pgoutput.Limits{})
		for _, m := range msgs[:uint(after)%uint(len(msgs))] {
			if _, _, err := a.Feed(0, slices.Clone(m)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			rec, ok, err := a.Feed(0, slices.Clone(msg))
			if err == nil && ok && rec.Fragment != nil {
				if err := rec.Fragment.Walk(func(*pipeline.Change) error { return nil }); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// BenchmarkRows is one row of a transaction of 10,000: 0 allocs/op.
func BenchmarkRows(b *testing.B) { benchmark(b, 10_000) }

// BenchmarkTransactions is a transaction of one row.
func BenchmarkTransactions(b *testing.B) { benchmark(b, 1) }

// BenchmarkStreamedRows is one row of a streamed transaction of 10,000.
func BenchmarkStreamedRows(b *testing.B) {
	a := pgoutput.New(0, pgoutput.Limits{})
	must := func(msg []byte) {
		if _, _, err := a.Feed(0, msg); err != nil {
			b.Fatal(err)
		}
	}
	v := "0123456789012345678901"
	rel := by(10, relation(1, "public.a", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"))
	row := by(10, insert(1, v, v, v, v, v, v, v, v, v, v))
	buf := make([]byte, len(row))
	b.ReportAllocs()
	b.SetBytes(int64(len(row)))
	for i := 0; b.Loop(); i++ {
		if i%10_000 == 0 {
			must(streamStart(10, true))
			must(slices.Clone(rel))
		}
		copy(buf, row)
		must(buf)
		if i%10_000 == 9999 {
			must(streamStop())
			must(streamCommit(10, 0x100))
		}
	}
}

func benchmark(b *testing.B, rows int) {
	a := pgoutput.New(0, pgoutput.Limits{})
	must := func(msg []byte) {
		if _, _, err := a.Feed(0, msg); err != nil {
			b.Fatal(err)
		}
	}
	must(relation(1, "public.a", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"))
	v := "0123456789012345678901"
	row := insert(1, v, v, v, v, v, v, v, v, v, v)
	open, shut := begin(0x100), commit(0x100)
	b.ReportAllocs()
	b.SetBytes(int64(len(row)))
	for i := 0; b.Loop(); i++ {
		if i%rows == 0 {
			must(open)
		}
		must(row)
		if i%rows == rows-1 {
			must(shut)
		}
	}
}
