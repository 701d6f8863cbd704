package verify

import (
	"context"
	"fmt"
	"math/big"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Limits of a scan.
const (
	sliceRows    = 1 << 18 // of the target, in one statement
	bucketRows   = 256     // wanted in a bucket
	rowBytesFew  = 128     // for a guess at the number of rows
	bucketsMax   = 1 << 16 // of one statement
	fetchRowsMax = 200_000 // of one server, held in memory
	suspectsMax  = 20_000  // of one table
	sampleParts  = 1 << 16
)

// Seeds of the hashes: two of a row, one of its key for the bucket.
const (
	seedRow1 = iota + 1
	seedRow2
	seedBucket
)

// scan goes over one table: every row that is not seen to be equal becomes a suspect.
type scan struct {
	c       *cluster
	p       *plan
	sample  float64 // percent
	seed    int64   // of the sample
	slice   int64   // rows
	report  *TableReport
	tell    func()
	buckets int

	suspects   []*suspect
	unexamined int64 // rows of buckets that were not looked into, because there are suspectsMax suspects already
}

func newScan(c *cluster, p *plan, cfg *Config, report *TableReport, tell func()) *scan {
	s := &scan{c: c, p: p, sample: cfg.Sample, seed: cfg.seed, slice: cfg.sliceRows, report: report, tell: tell}
	rows := max(p.rows, p.bytes/rowBytesFew) // statistics may be old, and too many buckets do no harm
	if p.leading != "" {
		rows = min(rows, s.slice)
	}
	s.buckets = 1
	if wanted := rows / bucketRows; wanted > 1 {
		s.buckets = min(bucketsMax, 1<<bits.Len64(uint64(wanted-1)))
	}
	return s
}

func (s *scan) run(ctx context.Context) error {
	if s.p.leading == "" {
		return s.compare(ctx, "")
	}
	for low := (*string)(nil); ; {
		high, err := s.border(ctx, low)
		if err != nil {
			return err
		}
		if err := s.compare(ctx, s.between(low, high)); err != nil || high == nil {
			return err
		}
		low = high
	}
}

// border is the key at the end of the slice behind low; nil: the slice has no end.
func (s *scan) border(ctx context.Context, low *string) (*string, error) {
	column := "t." + quote(s.p.columns[s.p.key[0]])
	sql := fmt.Sprintf("SELECT %s FROM %s AS t%s ORDER BY %s OFFSET %d LIMIT 1", column, s.p.from(s.p.target), s.between(low, nil), column, s.slice)
	rows, err := s.c.target.query(ctx, sql)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	border := string(rows[0][0])
	return &border, nil
}

// between is the WHERE of a slice. Its borders are values of a type that every server sorts alike.
func (s *scan) between(low, high *string) string {
	var terms []string
	for _, b := range []struct {
		at       *string
		operator string
	}{{low, ">"}, {high, "<="}} {
		if b.at != nil {
			terms = append(terms, fmt.Sprintf("t.%s %s %s::%s", quote(s.p.columns[s.p.key[0]]), b.operator, literal(*b.at), s.p.leading))
		}
	}
	if terms == nil {
		return ""
	}
	return " WHERE " + strings.Join(terms, " AND ")
}

// rows is the subquery of a slice's rows: k the text of what a row is known by, r of all its values. OFFSET 0 keeps
// PostgreSQL from making the text once for each use.
func (s *scan) rows(t *described, where, more string) string {
	key := s.p.record(s.p.identity())
	if s.sample < 100 {
		where = and(where, fmt.Sprintf("(%s & %d) < %d", s.p.hash(key, s.seed), sampleParts-1, int(s.sample/100*sampleParts)))
	}
	return fmt.Sprintf("(SELECT %s AS k, %s AS r%s FROM %s AS t%s OFFSET 0) AS t",
		key, s.p.record(allOf(s.p.columns)), more, s.p.from(t), where)
}

func and(where, term string) string {
	if where == "" {
		return " WHERE " + term
	}
	return where + " AND " + term
}

func allOf(columns []string) []int {
	all := make([]int, len(columns))
	for i := range all {
		all[i] = i
	}
	return all
}

func (s *scan) bucket() string {
	return fmt.Sprintf("(%s & %d)", s.p.hash("t.k", seedBucket), s.buckets-1)
}

// total of a bucket: source less target.
type total struct {
	rows int64 // of the source, or of the target if that has more
	diff int64
	x, y big.Int
}

func (t *total) equal() bool { return t.diff == 0 && t.x.Sign() == 0 && t.y.Sign() == 0 }

// compare compares a slice by the totals of its buckets, and looks into those that differ.
func (s *scan) compare(ctx context.Context, where string) error {
	totals, err := s.totals(ctx, where)
	if err != nil {
		return err
	}
	s.tell()
	var differ []int
	for b, t := range totals {
		if !t.equal() {
			differ = append(differ, b)
		}
	}
	slices.Sort(differ)
	for len(differ) > 0 {
		n, rows := 0, int64(0)
		for n < len(differ) && (n == 0 || rows+totals[differ[n]].rows <= fetchRowsMax) {
			rows += totals[differ[n]].rows
			n++
		}
		if len(s.suspects) >= suspectsMax {
			s.unexamined += rows
		} else if err := s.look(ctx, where, differ[:n]); err != nil {
			return err
		}
		differ = differ[n:]
	}
	return nil
}

// sites calls fn for every server that has the table, all at the same time: the less time between their snapshots,
// the fewer rows differ for a moment. sign is 1 for the source and -1 for the target.
func (s *scan) sites(ctx context.Context, fn func(ctx context.Context, d *database, t *described, sign int64) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, t := range s.p.shards {
		if t != nil {
			group.Go(func() error { return fn(ctx, s.c.shards[i], t, 1) })
		}
	}
	group.Go(func() error { return fn(ctx, s.c.target, s.p.target, -1) })
	return group.Wait()
}

func (s *scan) totals(ctx context.Context, where string) (map[int]*total, error) {
	var mu sync.Mutex
	totals := map[int]*total{}
	target := map[int]int64{}
	err := s.sites(ctx, func(ctx context.Context, d *database, t *described, sign int64) error {
		sql := fmt.Sprintf("SELECT %s, count(*), sum(%s), sum(%s) FROM %s GROUP BY 1",
			s.bucket(), s.p.hash("t.r", seedRow1), s.p.hash("t.r", seedRow2), s.rows(t, where, ""))
		return d.each(ctx, sql, nil, func(row [][]byte) error {
			mu.Lock()
			defer mu.Unlock()
			bucket, rows, err := bucketRow(row)
			if err != nil {
				return err
			}
			t := totals[bucket]
			if t == nil {
				t = &total{}
				totals[bucket] = t
			}
			if sign < 0 {
				target[bucket] = rows
				s.report.RowsTarget += rows
			} else {
				t.rows += rows
				s.report.RowsSource += rows
			}
			t.diff += sign * rows
			if !add(&t.x, row[2], sign) || !add(&t.y, row[3], sign) {
				return fmt.Errorf("sum of hashes %q, %q: not numbers", row[2], row[3])
			}
			return nil
		})
	})
	for b, rows := range target {
		totals[b].rows = max(totals[b].rows, rows)
	}
	return totals, err
}

func bucketRow(row [][]byte) (bucket int, rows int64, err error) {
	if bucket, err = strconv.Atoi(string(row[0])); err != nil {
		return 0, 0, err
	}
	rows, err = strconv.ParseInt(string(row[1]), 10, 64)
	return bucket, rows, err
}

func add(sum *big.Int, text []byte, sign int64) bool {
	n, ok := new(big.Int).SetString(string(text), 10)
	if ok && sign < 0 {
		sum.Sub(sum, n)
	} else if ok {
		sum.Add(sum, n)
	}
	return ok
}

// delta is what is left of the rows of one key: source less target, each sum modulo 2^64.
type delta struct {
	values []value
	rows   int64
	x, y   uint64
}

// look fetches the rows of buckets from everywhere, now, and makes suspects of those that differ now.
func (s *scan) look(ctx context.Context, where string, buckets []int) error {
	list := make([]string, len(buckets))
	for i, b := range buckets {
		list[i] = strconv.Itoa(b)
	}
	var mu sync.Mutex
	deltas := map[string]*delta{}
	err := s.sites(ctx, func(ctx context.Context, d *database, t *described, sign int64) error {
		return d.each(ctx, s.lookSQL(t, where), []string{"{" + strings.Join(list, ",") + "}"}, func(row [][]byte) error {
			mu.Lock()
			defer mu.Unlock()
			return note(deltas, row, sign, s.p.key != nil)
		})
	})
	if err != nil {
		return err
	}
	for id, d := range deltas {
		s.suspects = append(s.suspects, &suspect{plan: s.p, id: id, key: d.values})
	}
	return nil
}

// lookSQL gives rows of two hashes and the key's values, or, of a table without a key, the digest.
func (s *scan) lookSQL(t *described, where string) string {
	more, give := "", s.p.digest("t.r")
	if s.p.key != nil {
		give = ""
		for i, c := range s.p.key {
			more += fmt.Sprintf(", t.%s AS k%d", quote(s.p.columns[c]), i)
			give += fmt.Sprintf(", t.k%d", i)
		}
		give = give[2:]
	}
	return fmt.Sprintf("SELECT %s, %s, %s FROM %s WHERE %s = ANY ($1::bigint[])",
		s.p.hash("t.r", seedRow1), s.p.hash("t.r", seedRow2), give, s.rows(t, where, more), s.bucket())
}

func note(deltas map[string]*delta, row [][]byte, sign int64, keyed bool) error {
	x, errX := strconv.ParseInt(string(row[0]), 10, 64)
	y, errY := strconv.ParseInt(string(row[1]), 10, 64)
	if errX != nil || errY != nil {
		return fmt.Errorf("hashes %q, %q: not numbers", row[0], row[1])
	}
	values := valuesOf(row[2:])
	id := values[0].text
	if keyed {
		id = recordText(values)
	}
	d := deltas[id]
	if d == nil {
		d = &delta{values: values}
		deltas[id] = d
	}
	d.rows += sign
	d.x += uint64(sign * x)
	d.y += uint64(sign * y)
	if d.rows == 0 && d.x == 0 && d.y == 0 {
		delete(deltas, id)
	}
	return nil
}

func valuesOf(row [][]byte) []value {
	values := make([]value, len(row))
	for i, v := range row {
		values[i] = value{text: string(v), null: v == nil}
	}
	return values
}
