package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"shardcdc/pipeline"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

func encode(t testing.TB, b *pipeline.Batch) []byte {
	t.Helper()
	frame, err := new(Encoder).AppendUnit(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

func TestRoundTrip(t *testing.T) {
	var enc Encoder // shared: what one batch leaves must not reach the next
	var dec Decoder
	rapid.Check(t, func(t *rapid.T) {
		b := drawBatch(t)
		prefix := []byte("before")
		frame, err := enc.AppendUnit(prefix, b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(frame, prefix) {
			t.Fatal("dst was overwritten")
		}
		for _, d := range []*Decoder{{}, &dec} {
			u, err := d.DecodeUnit(frame[len(prefix):])
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(b.Transactions, u.Transactions); diff != "" {
				t.Fatal(diff)
			}
			if u.Previous != b.Previous || u.Last != b.Last() || u.Follows(b.Previous) != nil {
				t.Fatalf("range %+v of batch after %s", u, b.Previous)
			}
		}
	})
}

func TestGolden(t *testing.T) {
	frame := encode(t, sample())
	path := filepath.Join("testdata", "unit.hex")
	got := hex.Dump(frame)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the frame's layout changed; streams in the field hold the old one. Raise Version, or restore it.\n%s", cmp.Diff(string(want), got))
	}
}

func TestBodiesAreViews(t *testing.T) {
	frame := encode(t, sample())
	u, err := DecodeUnit(frame)
	if err != nil {
		t.Fatal(err)
	}
	body := u.Transactions[0].Fragments[0].Body
	at := bytes.Index(frame, body)
	if &frame[at] != &body[0] || cap(body) != len(body) {
		t.Error("body is a copy, or can be appended to over its end")
	}
	u.Transactions[0].Fragments[1].Walk(func(c *pipeline.Change) error {
		if c.Relation == nil {
			t.Error("unresolved")
		}
		return nil
	})
}

func TestDecoderKeepsPointers(t *testing.T) {
	var d Decoder
	var seen []*pipeline.Relation
	for range 2 {
		u, err := d.DecodeUnit(encode(t, sample()))
		if err != nil {
			t.Fatal(err)
		}
		for _, use := range u.Transactions[0].Fragments[1].Relations {
			seen = append(seen, use.Relation)
		}
	}
	if seen[0] != seen[2] || seen[1] != seen[3] || seen[0] == seen[1] {
		t.Errorf("same description, other pointer: %p", seen)
	}
	d.knownBytes = cachedRelationBytesMax
	if _, err := d.DecodeUnit(encode(t, sample())); err != nil || len(d.known) != 3 {
		t.Errorf("%v, %d relations", err, len(d.known))
	}
	d.knownBytes = cachedRelationBytesMax
	other := &pipeline.Relation{Raw: rawRelation(1, "a", "b", 'd')}
	b := sample()
	b.Transactions[0].Fragments[0].Relations[0].Relation = other
	if _, err := d.DecodeUnit(encode(t, b)); err != nil || len(d.known) != 3 { // 4 without
		t.Errorf("a full memory was not started anew: %v, %d relations", err, len(d.known))
	}
}

func TestFollows(t *testing.T) {
	u := Unit{Previous: 10, First: 11, Last: 15}
	for last, want := range map[pipeline.CSN]string{
		10: "",
		9:  "gap in the stream: the unit of csn 11 to 15 follows csn 10, but the last one read is csn 9",
		12: "overlap in the stream: the unit of csn 11 to 15 follows csn 10, but csn 12 has been read already",
	} {
		got := ""
		if err := u.Follows(last); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("after %d: %q, want %q", last, got, want)
		}
	}
}

// The writer's gate: what no reader would accept is not written, and dst stays as it was.
func TestEncodeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(b *pipeline.Batch)
		want  string
	}{
		"csn stands":    {func(b *pipeline.Batch) { b.Transactions[1].CSN = b.Transactions[0].CSN }, "CSNs must rise"},
		"csn falls":     {func(b *pipeline.Batch) { b.Transactions[1].CSN = 1 }, "CSNs must rise"},
		"csn previous":  {func(b *pipeline.Batch) { b.Previous = b.Transactions[0].CSN }, "CSNs must rise"},
		"no fragment":   {func(b *pipeline.Batch) { b.Transactions[0].Fragments = nil }, "has no fragment"},
		"unsorted":      {func(b *pipeline.Batch) { b.Transactions[0].Fragments[0].Shard = 2 }, "must be sorted"},
		"unsorted end":  {func(b *pipeline.Batch) { f := b.Transactions[0].Fragments; f[0].Shard, f[0].End = 1, 0x1F1 }, "must be sorted"},
		"count":         {func(b *pipeline.Batch) { b.Transactions[0].Fragments[0].Changes++ }, "1 changes in the body, 2 announced"},
		"count beyond":  {func(b *pipeline.Batch) { b.Transactions[0].Fragments[0].Changes = 99 }, "99 changes announced in a body of 28 bytes"},
		"kind":          {func(b *pipeline.Batch) { b.Transactions[0].Fragments[1].Ops = 0xfe }, "change 1 of 2 is insert, which the fragment does not announce (0xfe)"},
		"empty message": {func(b *pipeline.Batch) { f := b.Transactions[0].Fragments[0]; f.Body = make([]byte, 9) }, "change 1 of 1 is empty"},
		"elsewhere":     {func(b *pipeline.Batch) { b.Transactions[0].Fragments[0].Content = Announced(9) }, "csn 3276800000000000001 is not in memory"},
		"cut body":      {func(b *pipeline.Batch) { f := b.Transactions[0].Fragments[0]; f.Body = f.Body[:9] }, "is cut off"},
		"use beyond":    {func(b *pipeline.Batch) { b.Transactions[0].Fragments[0].Relations[0].Offset = 999 }, "relation use at offset 999"},
		"use negative":  {func(b *pipeline.Batch) { b.Transactions[0].Fragments[0].Relations[0].Offset = -1 }, "relation use at offset -1"},
		"use backwards": {func(b *pipeline.Batch) { b.Transactions[0].Fragments[1].Relations[0].Offset = 60 }, "relation use at offset"},
		"no relation":   {func(b *pipeline.Batch) { b.Transactions[0].Fragments[0].Relations[0].Relation = nil }, "no usable description"},
		"no raw":        {func(b *pipeline.Batch) { b.Transactions[0].Fragments[0].Relations[0].Relation.Raw = nil }, "no usable description"},
	} {
		b := sample()
		c.spoil(b)
		var e Encoder
		dst, err := e.AppendUnit([]byte("x"), b)
		if err == nil || !strings.Contains(err.Error(), c.want) || string(dst) != "x" {
			t.Errorf("%s: dst %q, error %v, want %q", name, dst, err, c.want)
		}
		if _, err := e.AppendUnit(nil, sample()); err != nil {
			t.Errorf("%s: the encoder is spoiled: %v", name, err)
		}
	}
}

// seal makes length and checksums right again, so that a test reaches what is behind them.
func seal(frame []byte) []byte {
	if len(frame) < headSizeMin+checksumSize {
		return frame
	}
	binary.BigEndian.PutUint64(frame[lengthAt:], uint64(len(frame)))
	end := len(frame) - checksumSize
	if _, head := lengths(frame); head >= uint64(headSizeMin) && head <= uint64(end) {
		putChecksum(frame[:head])
	}
	putChecksum(frame)
	return frame
}

func putChecksum(b []byte) {
	end := len(b) - checksumSize
	binary.BigEndian.PutUint32(b[end:], crc32.Checksum(b[:end], castagnoli))
}

// withContent is a sealed frame without bodies, with this content of its head.
func withContent(content ...byte) []byte {
	f := append([]byte(magic), Version, 0)
	f = binary.BigEndian.AppendUint64(f, 0)
	f = binary.BigEndian.AppendUint64(f, uint64(headerSize+len(content)+checksumSize))
	for _, csn := range []uint64{5, 6, 6} {
		f = binary.BigEndian.AppendUint64(f, csn)
	}
	return seal(append(append(f, content...), make([]byte, 2*checksumSize)...))
}

func TestDecodeRefuses(t *testing.T) {
	content := func(b ...byte) func([]byte) []byte {
		return func([]byte) []byte { return withContent(b...) }
	}
	many := binary.AppendUvarint(nil, 1<<31)
	huge := binary.AppendUvarint(nil, math.MaxUint64)
	tx := func(rest ...byte) []byte { return append([]byte{0, 1, 1, 0, 1, 0, 0, 1}, rest...) }
	for name, c := range map[string]struct {
		spoil func(frame []byte) []byte
		want  string
	}{
		"empty":              {func(f []byte) []byte { return nil }, "no unit of shardcdc"},
		"magic":              {func(f []byte) []byte { f[0] = 'X'; return seal(f) }, `begins with "XDCU", want "CDCU"`},
		"version":            {func(f []byte) []byte { f[4] = 9; return f }, "version 9 is unknown; this build reads version 1. Try:"},
		"flags":              {func(f []byte) []byte { f[5] = 2; return seal(f) }, "flags 0x2 are unknown"},
		"no whole header":    {func(f []byte) []byte { return f[:headerSize-1] }, "cut off: 45 bytes, the header alone has 46"},
		"header only":        {func(f []byte) []byte { return f[:headerSize] }, "46 bytes, its header says 441"},
		"no head":            {func(f []byte) []byte { f[lengthAt+15], f[lengthAt+14] = 0, 0; return seal(f) }, "a head of 0 bytes in a frame of 441"},
		"head beyond":        {func(f []byte) []byte { f[lengthAt+14] = 0xff; return seal(f) }, "in a frame of 441"},
		"head to the end":    {func(f []byte) []byte { binary.BigEndian.PutUint64(f[lengthAt+8:], 438); return seal(f) }, "a head of 438 bytes in a frame of 441"},
		"head bit":           {func(f []byte) []byte { f[headerSize+9] ^= 1; return f }, "damaged: checksum of the head"},
		"bodies too long":    {func(f []byte) []byte { f = append(f, 0); return seal(f) }, "1 bytes of bodies too many"},
		"kind":               {func(f []byte) []byte { f[bytes.Index(f, []byte("\x00\x18I"))+2] = 'D'; return seal(f) }, "change 1 of 1 is delete, which the fragment does not announce (0x1)"},
		"length 2^31":        {func(f []byte) []byte { binary.BigEndian.PutUint64(f[lengthAt:], 1<<31); return f }, "its header says 2147483648"},
		"checksum":           {func(f []byte) []byte { f[len(f)-1]++; return f }, "damaged: checksum"},
		"body bit":           {func(f []byte) []byte { f[len(f)-9] ^= 1; return f }, "damaged: checksum"},
		"longer":             {func(f []byte) []byte { return append(f, 0) }, "its header says"},
		"first":              {func(f []byte) []byte { f[csnsAt+15]++; return seal(f) }, "header says csn"},
		"last":               {func(f []byte) []byte { f[csnsAt+23]++; return seal(f) }, "header says csn"},
		"previous":           {func(f []byte) []byte { f[csnsAt+7]++; return seal(f) }, "header says csn"},
		"many relations":     {content(many...), "elements announced"},
		"huge count":         {content(huge...), "elements announced"},
		"overlong number":    {content(bytes.Repeat([]byte{0xff}, 12)...), "out of range"},
		"many transactions":  {content(append([]byte{0}, many...)...), "elements announced"},
		"many fragments":     {content(append([]byte{0, 0}, many...)...), "elements announced"},
		"too many bytes":     {content(0, 0, 0, 0, 7), "1 bytes of head, 0 fragments, 0 relation uses and 0 bytes of bodies too many"},
		"too many fragments": {content(append([]byte{0, 1, 2, 0, 1, 0, 0, 1}, make([]byte, 10)...)...), "elements announced"},
		"left over":          {content(append([]byte{0, 1, 2, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 12}, make([]byte, 12+5)...)...), "0 bytes of head, 1 fragments, 0"},
		"shard 65536":        {content(tx(0x80, 0x80, 4, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0)...), "out of range"},
		"use without":        {content(append([]byte{0, 1, 1, 1, 1, 0, 0, 1}, 0, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0)...), "use of relation 0 of 0"},
		"unannounced":        {content(append([]byte{0, 1, 0, 0, 1, 0, 0, 1}, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0)...), "more fragments or relation uses"},
		"csn stands":         {content(append([]byte{0, 1, 1, 0, 0, 0, 0, 1}, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0)...), "CSNs must rise"},
		"no relation":        {content(1, 0, 1, 'R', 0, 0, 0, 0), "message is too short"},
	} {
		_, err := DecodeUnit(c.spoil(encode(t, sample())))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// The largest counts that a frame's length allows must not cost more than the doc of DecodeUnit says.
func TestDecodeAllocatesByInput(t *testing.T) {
	const size = 1 << 20
	content := []byte{0}
	for _, bytesMin := range []int{transactionBytesMin, fragmentBytesMin, useBytesMin} {
		content = binary.AppendUvarint(content, uint64((size-16)/bytesMin))
	}
	frame := withContent(append(content, make([]byte, size)...)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := DecodeUnit(frame)
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Fatal("accepted")
	}
	if times := (after.TotalAlloc - before.TotalAlloc) / uint64(len(frame)); times > 35 {
		t.Errorf("%d times the frame's length allocated: %v", times, err)
	} else {
		t.Logf("%d times the frame's length allocated: %v", times, err)
	}
}

func TestRelationOfAnotherShard(t *testing.T) {
	frame := encode(t, sample())
	at := headerSize + 1 // the first relation's shard
	if frame[at] != 0 {
		t.Fatal("layout changed")
	}
	frame[at] = 3
	if _, err := DecodeUnit(seal(frame)); err == nil || !strings.Contains(err.Error(), "of shard 3 by shard 0") {
		t.Error(err)
	}
}

// Every cut and every changed byte is noticed or harmless, with and without a right checksum.
func TestEveryDamage(t *testing.T) {
	whole := encode(t, sample())
	for i := range whole {
		if _, err := DecodeUnit(whole[:i]); err == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
		DecodeUnit(seal(bytes.Clone(whole[:i])))
		for _, x := range []byte{1, 0x80, 0xff} {
			damaged := bytes.Clone(whole)
			damaged[i] ^= x
			if _, err := DecodeUnit(damaged); err == nil {
				t.Errorf("byte %d ^ %#x: accepted", i, x)
			}
			if u, err := DecodeUnit(seal(damaged)); err == nil {
				checkAgain(t, u)
			}
		}
	}
}

func TestRandomBytes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		var content []byte
		for range r.IntN(60) {
			content = append(content, byte(r.Uint32()>>r.IntN(9)&0xff))
		}
		DecodeUnit(withContent(content...))
	}
}

// checkAgain: what was accepted can be written and read again, to the same.
func checkAgain(t testing.TB, u *Unit) {
	t.Helper()
	b := &pipeline.Batch{Previous: u.Previous, Transactions: u.Transactions}
	again, err := DecodeUnit(encode(t, b))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(u, again); diff != "" {
		t.Fatal(diff)
	}
}

func FuzzDecodeUnit(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add(encode(f, &pipeline.Batch{Previous: 7}))
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, fr := range [][]byte{frame, seal(bytes.Clone(frame))} {
			u, err := DecodeUnit(fr)
			if err != nil {
				continue
			}
			checkAgain(t, u)
			for _, tx := range u.Transactions {
				for _, fragment := range tx.Fragments {
					fragment.Walk(func(*pipeline.Change) error { return nil })
				}
			}
		}
	})
}

// bulk is a group commit of n small transactions of two rows.
func bulk(n int) *pipeline.Batch {
	v1, _ := accounts()
	b := &pipeline.Batch{Previous: 1 << 60}
	for i := range n {
		f := &pipeline.Fragment{Shard: pipeline.ShardID(i % 4), XID: pipeline.XID(i), Start: pipeline.LSN(i * 200), End: pipeline.LSN(i*200 + 180), Time: 1e15}
		f.Relations = []pipeline.RelationUse{{Relation: v1}}
		f.Append(insertMessage(16400, "123456", "100.00"))
		f.Append(insertMessage(16400, "123457", "-100.00"))
		b.Transactions = append(b.Transactions, &pipeline.Transaction{CSN: b.Previous + pipeline.CSN(1+i*4096), CommitTime: 1e15, Fragments: []*pipeline.Fragment{f}})
	}
	return b
}

func TestEncodeAllocatesNothing(t *testing.T) {
	b := bulk(100)
	var e Encoder
	var dst []byte
	allocs := testing.AllocsPerRun(20, func() {
		dst, _ = e.AppendUnit(dst[:0], b)
	})
	if allocs != 0 {
		t.Errorf("%v allocations per unit of 100 transactions", allocs)
	}
	var d Decoder
	allocs = testing.AllocsPerRun(20, func() { d.DecodeUnit(dst) })
	if allocs > 8 {
		t.Errorf("%v allocations to decode 100 transactions", allocs)
	}
}

func BenchmarkAppendUnit(b *testing.B) {
	batch := bulk(1000)
	var e Encoder
	dst, _ := e.AppendUnit(nil, batch)
	b.SetBytes(int64(len(dst)))
	b.ReportAllocs()
	for b.Loop() {
		dst, _ = e.AppendUnit(dst[:0], batch)
	}
}

func BenchmarkDecodeUnit(b *testing.B) {
	frame := encode(b, bulk(1000))
	var d Decoder
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.DecodeUnit(frame); err != nil {
			b.Fatal(err)
		}
	}
}
