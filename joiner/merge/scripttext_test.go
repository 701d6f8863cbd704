package merge

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"shardcdc/pipeline"
)

// What the scripts are written in, and what they print.

func name(id pipeline.ShardID) string { return string(rune('a' + id)) }

func (s *script) shard(t *testing.T, word string) pipeline.ShardID {
	if len(word) != 1 || word[0] < 'a' || int(word[0]-'a') >= s.conf.Shards {
		t.Fatalf("no shard %q", word)
	}
	return pipeline.ShardID(word[0] - 'a')
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func verdict(err error) string {
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	return "ok\n"
}

func orNone(b *strings.Builder) string {
	if b.Len() == 0 {
		return "none\n"
	}
	return strings.TrimRight(b.String(), " \n") + "\n"
}

// fields are the key=value words of a line; every one has to be used.
type fields struct {
	t    *testing.T
	vals map[string]string
}

func fieldsOf(t *testing.T, args []datadriven.CmdArg) fields {
	f := fields{t, map[string]string{}}
	for _, a := range args {
		f.vals[a.Key] = strings.Join(a.Vals, ",")
	}
	return f
}

func (f fields) take(key string) (string, bool) {
	v, ok := f.vals[key]
	delete(f.vals, key)
	return v, ok
}

func (f fields) need(key string) string {
	v, ok := f.take(key)
	if !ok {
		f.t.Fatalf("%s= is missing", key)
	}
	return v
}

func (f fields) time(key string) pipeline.Timestamp {
	d, err := time.ParseDuration(f.need(key))
	must(f.t, err)
	return pipeline.Timestamp(0).Add(d)
}

func (f fields) lsn(key string) pipeline.LSN { return parseLSN(f.t, f.need(key)) }

func parseLSN(t *testing.T, word string) pipeline.LSN {
	v, err := strconv.ParseUint(word, 16, 64)
	must(t, err)
	return pipeline.LSN(v)
}

// parseRecord reads one line of an offer.
func parseRecord(t *testing.T, id pipeline.ShardID, words []string) pipeline.Record {
	f := fields{t, map[string]string{}}
	gid := ""
	for _, w := range words[1:] {
		if k, v, ok := strings.Cut(w, "="); ok {
			f.vals[k] = v
		} else {
			gid = w
		}
	}
	xid, err := strconv.ParseUint(f.need("xid"), 10, 32)
	must(t, err)
	r := pipeline.Record{GID: gid, XID: pipeline.XID(xid), Time: f.time("time")}
	at := f.need("at")
	if from, to, ok := strings.Cut(at, ".."); ok {
		r.Start, r.End = parseLSN(t, from), parseLSN(t, to)
	} else {
		r.End = parseLSN(t, at)
		r.Start = r.End - 8
	}
	switch words[0] {
	case "commit":
		r.Kind = pipeline.Commit
		r.Fragment = f.fragment(id, r)
	case "prepare":
		r.Kind = pipeline.Prepare
		r.Fragment = f.fragment(id, r)
	case "commit-prepared":
		r.Kind = pipeline.CommitPrepared
	case "rollback-prepared":
		r.Kind = pipeline.RollbackPrepared
		if _, ok := f.vals["prepared"]; ok {
			r.PrepareEnd = f.lsn("prepared")
		}
	default:
		t.Fatalf("unknown record %q", words[0])
	}
	for k := range f.vals {
		t.Fatalf("%s: unknown field %q", words[0], k)
	}
	return r
}

func (f fields) fragment(id pipeline.ShardID, r pipeline.Record) *pipeline.Fragment {
	fr := &pipeline.Fragment{Shard: id, XID: r.XID, GID: r.GID, Start: r.Start, End: r.End, Time: r.Time}
	fr.Origin, _ = f.take("origin")
	if list, ok := f.take("decides"); ok {
		fr.Decides = strings.Split(list, ",")
	}
	rows := 1
	if v, ok := f.take("rows"); ok {
		n, err := strconv.Atoi(v)
		must(f.t, err)
		rows = n
	}
	for range rows {
		fr.Append([]byte("tenbyt"))
	}
	return fr
}

func timeText(t pipeline.Timestamp) string { return t.Sub(0).String() }

func csnText(c pipeline.CSN) string {
	text := timeText(c.Time())
	if n := c - pipeline.CSNAt(c.Time()); n > 0 {
		text += fmt.Sprintf("+%d", n)
	}
	return text
}

func transactionText(tx *pipeline.Transaction) string {
	var b strings.Builder
	fmt.Fprintf(&b, "csn %s committed %s", csnText(tx.CSN), timeText(tx.CommitTime))
	if tx.GID != "" {
		fmt.Fprintf(&b, " %s", tx.GID)
	}
	b.WriteString(":")
	for _, f := range tx.Fragments {
		fmt.Fprintf(&b, " %s@%X", name(f.Shard), uint64(f.End))
	}
	return b.String() + "\n"
}

func checkpointText(c *pipeline.Checkpoint) string {
	var b strings.Builder
	fmt.Fprintf(&b, "checkpoint: last %s, watermark %s\n", csnText(c.Last), csnText(c.Watermark))
	for id := range c.Shards {
		sh := &c.Shards[id]
		fmt.Fprintf(&b, "  %s through %X", name(pipeline.ShardID(id)), uint64(sh.Through))
		for _, p := range sh.Pending {
			fmt.Fprintf(&b, ", pending %X..%X", uint64(p.Start), uint64(p.End))
		}
		for _, o := range sh.Open {
			fmt.Fprintf(&b, ", open %s", o.GID)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
