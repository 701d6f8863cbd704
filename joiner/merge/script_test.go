package merge

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"shardcdc/pipeline"
)

// script is the state of one file of testdata: a Merger, the shards' WAL, and the stream that it feeds.
type script struct {
	conf    Config
	m       *Merger
	wal     [][]pipeline.Record
	arrived []pipeline.LSN // keepalives included

	durable pipeline.Checkpoint // of the stream's last unit
	flying  []pipeline.Batch    // taken, not durable
	last    pipeline.CSN        // last in the stream
	seen    map[string]bool     // fragments in the stream or in flight
}

// upToUnderscore is the gid rule of the tests: all before the last underscore.
func upToUnderscore(gid string) string {
	if i := strings.LastIndexByte(gid, '_'); i >= 0 {
		return gid[:i]
	}
	return gid
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "new":
		return s.create(t, d)
	case "offer":
		return s.offer(t, d)
	case "probes":
		return s.probes()
	case "probed":
		id := s.shard(t, d.CmdArgs[0].Key)
		probe, err := strconv.ParseUint(d.CmdArgs[1].Key, 10, 64)
		must(t, err)
		f := fieldsOf(t, d.CmdArgs[2:])
		return verdict(s.m.Probed(id, probe, f.time("clock"), f.lsn("flushed")))
	case "take":
		bytesMax := 1 << 20
		d.MaybeScanArgs(t, "bytes", &bytesMax)
		b, ok := s.m.Take(bytesMax)
		return s.batch(t, b, ok)
	case "heartbeat":
		b, ok := s.m.Heartbeat()
		return s.batch(t, b, ok)
	case "durable":
		return s.becomeDurable()
	case "crash":
		return s.crash(t, d)
	case "resend":
		return s.resend(t, d)
	case "status":
		return s.status()
	case "admits":
		return s.admits()
	}
	t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	return ""
}

func (s *script) create(t *testing.T, d *datadriven.TestData) string {
	*s = script{conf: Config{MaxClockSkew: time.Second, GlobalID: upToUnderscore}, seen: map[string]bool{}}
	d.ScanArgs(t, "shards", &s.conf.Shards)
	d.MaybeScanArgs(t, "bytes", &s.conf.BytesMax)
	d.MaybeScanArgs(t, "batch", &s.conf.BatchMax)
	d.MaybeScanArgs(t, "singly", &s.conf.Singly)
	var skew string
	if d.MaybeScanArgs(t, "skew", &skew) {
		v, err := time.ParseDuration(skew)
		must(t, err)
		s.conf.MaxClockSkew = v
	}
	s.durable.Shards = make([]pipeline.ShardCheckpoint, s.conf.Shards)
	s.wal = make([][]pipeline.Record, s.conf.Shards)
	s.arrived = make([]pipeline.LSN, s.conf.Shards)
	return s.start(t)
}

func (s *script) start(t *testing.T) string {
	s.conf.Start = s.durable
	m, err := New(s.conf)
	must(t, err)
	s.m = m
	return "ok\n"
}

func (s *script) offer(t *testing.T, d *datadriven.TestData) string {
	id := s.shard(t, d.CmdArgs[0].Key)
	var records []pipeline.Record
	for line := range strings.Lines(d.Input) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if words[0] == "keepalive" {
			s.arrived[id] = parseLSN(t, words[1])
			continue
		}
		r := parseRecord(t, id, words)
		records = append(records, r)
		s.arrived[id] = max(s.arrived[id], r.End)
	}
	err := s.m.Offer(id, clone(records), s.arrived[id])
	if err == nil {
		s.wal[id] = append(s.wal[id], records...)
	}
	return verdict(err)
}

// clone copies records, so that a Merger that changed a fragment would not change what is sent again.
func clone(records []pipeline.Record) []pipeline.Record {
	out := slices.Clone(records)
	for i := range out {
		if f := out[i].Fragment; f != nil {
			c := *f
			out[i].Fragment = &c
		}
	}
	return out
}

func (s *script) probes() string {
	var b strings.Builder
	for _, p := range s.m.Probes(nil) {
		fmt.Fprintf(&b, "ask %s %d\n", name(p.Shard), p.ID)
	}
	return orNone(&b)
}

func (s *script) becomeDurable() string {
	if len(s.flying) == 0 {
		return "nothing is in flight\n"
	}
	s.store()
	s.m.Durable(&s.durable)
	var b strings.Builder
	b.WriteString("confirmed")
	for id := range s.conf.Shards {
		fmt.Fprintf(&b, " %s=%X", name(pipeline.ShardID(id)), uint64(s.m.Confirmed(pipeline.ShardID(id))))
	}
	return b.String() + "\n"
}

// store moves the oldest batch in flight into the stream.
func (s *script) store() {
	b := s.flying[0]
	s.flying = s.flying[1:]
	s.durable, s.last = b.Checkpoint, b.Last()
}

func (s *script) crash(t *testing.T, d *datadriven.TestData) string {
	if d.HasArg("stored") {
		s.store()
	}
	for _, b := range s.flying {
		for _, tx := range b.Transactions {
			for _, f := range tx.Fragments {
				delete(s.seen, f.String())
			}
		}
	}
	s.flying = nil
	s.start(t)
	var b strings.Builder
	b.WriteString("read")
	for id := range s.conf.Shards {
		fmt.Fprintf(&b, " %s from %X", name(pipeline.ShardID(id)), uint64(s.durable.Shards[id].Safe()))
	}
	return b.String() + "\n"
}

// resend offers again what a shard sends when it is read from the checkpoint's position on.
func (s *script) resend(t *testing.T, d *datadriven.TestData) string {
	var b strings.Builder
	for i := range s.conf.Shards {
		id := pipeline.ShardID(i)
		if len(d.CmdArgs) > 0 && s.shard(t, d.CmdArgs[0].Key) != id {
			continue
		}
		var again []pipeline.Record
		for _, r := range s.wal[id] {
			if r.End > s.durable.Shards[id].Safe() {
				again = append(again, r)
			}
		}
		fmt.Fprintf(&b, "%s: %d records", name(id), len(again))
		if err := s.m.Offer(id, clone(again), s.arrived[id]); err != nil {
			fmt.Fprintf(&b, ": error: %s", err)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (s *script) admits() string {
	var b strings.Builder
	for id := range s.conf.Shards {
		if s.m.Admits(pipeline.ShardID(id)) {
			fmt.Fprintf(&b, "%s ", name(pipeline.ShardID(id)))
		}
	}
	return orNone(&b)
}

// batch prints a batch and checks what holds for every one: it follows the one before and holds no fragment
// that an earlier one held.
func (s *script) batch(t *testing.T, b pipeline.Batch, ok bool) string {
	if !ok {
		return "nothing\n"
	}
	last := s.last
	if n := len(s.flying); n > 0 {
		last = s.flying[n-1].Last()
	}
	if b.Previous != last {
		t.Errorf("batch says that it follows %s, not %s", csnText(b.Previous), csnText(last))
	}
	var out strings.Builder
	for _, tx := range b.Transactions {
		if tx.CSN <= last {
			t.Errorf("csn %s after %s", csnText(tx.CSN), csnText(last))
		}
		last = tx.CSN
		out.WriteString(transactionText(tx))
		for _, f := range tx.Fragments {
			if s.seen[f.String()] {
				t.Errorf("%s is published twice", f)
			}
			s.seen[f.String()] = true
		}
	}
	out.WriteString(checkpointText(&b.Checkpoint))
	s.flying = append(s.flying, b)
	return out.String()
}

func (s *script) status() string {
	st := s.m.Status()
	var b strings.Builder
	fmt.Fprintf(&b, "W %s, waiting %d, undecided %d, decided %d, held %d bytes", csnText(st.Watermark), st.Waiting, st.Undecided, st.Decided, st.BytesHeld)
	if p := st.InDoubt; p.GID != "" {
		fmt.Fprintf(&b, ", oldest %s on %s since %s", p.GID, name(p.Shard), timeText(p.At))
	}
	if p := st.Oldest; p.GID != "" {
		fmt.Fprintf(&b, ", unfinished %d, oldest %s on %s since %s", st.Unfinished, p.GID, name(p.Shard), timeText(p.At))
	}
	if st.WaitingSince != 0 {
		fmt.Fprintf(&b, ", waits since %s", timeText(st.WaitingSince))
	}
	b.WriteByte('\n')
	for id, sh := range st.Shards {
		fmt.Fprintf(&b, "%s: received %X processed %X floor %s", name(pipeline.ShardID(id)), uint64(sh.Received), uint64(sh.Processed), csnText(sh.Floor))
		if sh.Queued > 0 {
			fmt.Fprintf(&b, " queued %d", sh.Queued)
		}
		if sh.PausedAt != "" {
			fmt.Fprintf(&b, ", paused at %s", sh.PausedAt)
		}
		if sh.WaitedFor != "" {
			fmt.Fprintf(&b, ", waited for: %s", sh.WaitedFor)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
