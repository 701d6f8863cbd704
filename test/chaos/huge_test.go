package chaos

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

// Limits that hold for every size of a transaction.
const (
	residentMost = 512 << 20
	delayMost    = time.Second // of small transactions that come before the huge one
)

// rows of 200 bytes.
const hugeSQL = "INSERT INTO bulk SELECT g * %d + %d, repeat(md5(g::text), 6) FROM generate_series(%d, %d) AS g"

// The transaction is written at a steady rate on each shard. A walsender decodes some 300,000 such rows a second if it has a
// core to itself; of what is written faster than the machine can decode, every reader of the WAL is late.
const (
	writeEvery  = 100 * time.Millisecond
	rowsAtATime = 5000
)

const bulkTable = "CREATE TABLE bulk (id bigint PRIMARY KEY, payload text NOT NULL)"

// huge is one transaction over all shards, beside the bank's.
type huge struct {
	*stage
	rows     int // in all
	resident map[string]int64
	gid      string
	began    time.Time // the moment before the first row; the delays before it say what the machine does without it
	decided  time.Time // a moment before the first second phase
}

// One huge transaction over three shards beside a steady load of small ones: the memory of node and worker stays below its
// limit, small transactions that come before it are not late, and in the end everything is equal, also when the node is
// killed while the changes come in, while it publishes, and while it publishes again. CDC_HUGE is the number of rows (make
// huge: ten million).
func TestHuge(t *testing.T) {
	rows := 480_000 // 100 MB
	if text := os.Getenv("CDC_HUGE"); text != "" {
		var err error
		rows, err = strconv.Atoi(text)
		must(t, err)
	} else {
		whole(t)
	}
	for _, kills := range []bool{false, true} {
		t.Run(map[bool]string{false: "in peace", true: "node killed three times"}[kills], func(t *testing.T) {
			h := newHuge(t, rows)
			writing := h.write()
			if kills {
				h.killWhen("changes come in", h.spilled)
			}
			must(t, writing.Wait())
			h.measure()
			h.decide()
			if kills {
				h.killWhen("it is published", h.published(rows/5))
				h.killWhen("it is published again", h.published(rows/5))
			}
			h.b.Progressed()
			t.Logf("on the target %s after the decision", time.Since(h.decided).Round(100*time.Millisecond))
			h.check(!kills)
			h.c.Finish(h.b)
		})
	}
}

func newHuge(t *testing.T, rows int) *huge {
	servers := roomyServers(t)
	o := harness.Options{Servers: servers, Limit: 5*time.Minute + time.Duration(rows)*500*time.Microsecond, Tables: bulkTable}
	if rows < 1_000_000 { // changes come before the commit nevertheless
		o.Settings = map[string]string{"logical_decoding_work_mem": "4MB"}
	}
	h := &huge{stage: openStageAsIs(t, o, bank.Config{PerSecond: 200}), rows: rows, resident: map[string]int64{}}
	h.gid = "huge_" + h.c.Sub.Name
	h.b.Committed(1000)
	h.began = time.Now()
	return h
}

// roomyServers are servers of a test alone, that take much at a time.
func roomyServers(t *testing.T) []*throwaway.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var options []throwaway.Options
	for i := range harness.Shards + 1 {
		options = append(options, throwaway.Options{Name: fmt.Sprintf("huge%d", i), Settings: map[string]string{
			"max_wal_size": "4GB", "log_min_error_statement": "panic", "wal_sender_timeout": "5s",
		}})
	}
	servers, err := throwaway.StartMany(ctx, options...)
	must(t, err)
	t.Cleanup(func() {
		for _, s := range servers {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return servers
}

// write writes and prepares the transaction, on all shards at the same time.
func (h *huge) write() *errgroup.Group {
	group, ctx := errgroup.WithContext(h.c.Ctx)
	for i, dsn := range h.c.ShardDSNs() {
		group.Go(func() error {
			conn, err := pgx.Connect(ctx, dsn)
			if err != nil {
				return err
			}
			defer conn.Close(context.Background())
			if err := h.writeShard(ctx, conn, i); err != nil {
				return fmt.Errorf("shard %d: %w", i, err)
			}
			return nil
		})
	}
	return group
}

func (h *huge) writeShard(ctx context.Context, conn *pgx.Conn, shard int) error {
	if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
		return err
	}
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for next, last := 1, h.rows/harness.Shards; next <= last; next += rowsAtATime {
		if _, err := conn.Exec(ctx, fmt.Sprintf(hugeSQL, harness.Shards, shard, next, min(next+rowsAtATime-1, last))); err != nil {
			return err
		}
		<-tick.C
	}
	_, err := conn.Exec(ctx, "PREPARE TRANSACTION '"+h.gid+"'")
	return err
}

func (h *huge) decide() {
	h.t.Helper()
	h.decided = time.Now()
	for _, dsn := range h.c.ShardDSNs() {
		execute(h.t, h.c, dsn, "COMMIT PREPARED '"+h.gid+"'")
	}
	h.c.Extra++
}

// measure notes the most memory that each process ever had.
func (h *huge) measure() {
	h.t.Helper()
	for _, p := range append(append([]*program.Program{}, h.nodes...), h.workers...) {
		u, err := harness.UsageOf(p.PID())
		must(h.t, err)
		h.resident[p.Name()] = max(h.resident[p.Name()], u.ResidentMost)
	}
}

// killWhen kills the node that captures as soon as the condition is met.
func (h *huge) killWhen(what string, met func() (bool, string)) {
	h.t.Helper()
	defer h.c.Limit(5*time.Minute, what)()
	harness.Until(h.c.Ctx, h.t, what, met)
	h.measure()
	h.moveCapture()
	h.t.Logf("the node is killed: %s", what)
}

// spilled says whether the nodes have put changes into files.
func (h *huge) spilled() (bool, string) {
	n, err := folderBytes(h.c.SpillDir(""))
	must(h.t, err)
	return n > int64(h.rows)*20, fmt.Sprintf("%d bytes are in files", n)
}

// published is a condition: so many rows' bytes more than now are in the stream.
func (h *huge) published(rows int) func() (bool, string) {
	first := h.streamed()
	return func() (bool, string) {
		n := h.streamed() - first
		return n > uint64(rows)*200, fmt.Sprintf("%d bytes are in the stream", n)
	}
}

func (h *huge) streamed() uint64 {
	h.t.Helper()
	return h.c.StreamInfo().State.Bytes
}

// folderBytes is the size of all files below a folder.
func folderBytes(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignore(err)
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return ignore(err)
	})
	return n, err
}

// ignore: a file that went away while it was looked for takes no room.
func ignore(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// check compares the huge transaction's rows, and looks at memory and, if nobody was killed, at delays.
func (h *huge) check(delays bool) {
	h.t.Helper()
	const sum = "SELECT format('%s %s', count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)) FROM bulk AS t WHERE $1 < 0 OR id % 3 = $1"
	h.c.WaitApplied()
	for i, dsn := range h.c.ShardDSNs() {
		source, target := h.c.Query(dsn, sum, -1), h.c.Query(h.c.TargetDSN(), sum, i)
		if source != target {
			h.t.Errorf("shard %d has rows and sum %s, the target %s", i, source, target)
		}
	}
	if n := h.c.Query(h.c.TargetDSN(), "SELECT count(*)::text FROM bulk"); n != strconv.Itoa(h.rows/harness.Shards*harness.Shards) {
		h.t.Errorf("%s rows are on the target, want %d", n, h.rows)
	}
	h.measure()
	for name, most := range h.resident {
		h.t.Logf("%s: %s resident at most", name, humanize.IBytes(uint64(most)))
		if most > residentMost {
			h.t.Errorf("%s had %s in memory, more than %s", name, humanize.IBytes(uint64(most)), humanize.IBytes(residentMost))
		}
	}
	alone := h.b.Meter().Delays(func(acked, _ time.Time) bool { return acked.Before(h.began) })
	before := h.b.Meter().Delays(func(acked, _ time.Time) bool { return acked.After(h.began) && acked.Before(h.decided) })
	for name, d := range map[string]bank.Delays{"before the huge transaction": alone, "while it is written": before} {
		h.t.Logf("delay of %d markers %s: half %s, 99 %% %s, most %s", len(d), name,
			d.Quantile(0.5).Round(time.Millisecond), d.Quantile(0.99).Round(time.Millisecond), d.Quantile(1).Round(time.Millisecond))
	}
	if most := before.Quantile(1); delays && most > delayMost {
		h.t.Errorf("a small transaction that came before the huge one was late by %s", most)
	}
}
