package verify

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"shardcdc/pipeline"
)

// visibility says which transactions a snapshot of a shard shows.
type visibility struct {
	next    uint64          // this transaction and later ones are not visible
	running map[uint64]bool // nor are these: prepared ones, too
}

// parseSnapshot reads the text of pg_snapshot: xmin:xmax:running,running
func parseSnapshot(text string) (*visibility, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return nil, fmt.Errorf("snapshot %q: want xmin:xmax:list", text)
	}
	v := &visibility{running: map[uint64]bool{}}
	var err error
	if v.next, err = strconv.ParseUint(parts[1], 10, 64); err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", text, err)
	}
	for _, x := range strings.Split(parts[2], ",") {
		if x == "" {
			continue
		}
		n, err := strconv.ParseUint(x, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("snapshot %q: %w", text, err)
		}
		v.running[n] = true
	}
	return v, nil
}

// shows says whether the snapshot shows a transaction that has committed. A fragment's number has 32 bits; it means the
// transaction nearest to the snapshot.
func (v *visibility) shows(x pipeline.XID) bool {
	full := v.next + uint64(int64(int32(uint32(x)-uint32(v.next))))
	return full < v.next && !v.running[full]
}

// sample is what a shard said, before its snapshot was taken, about transactions that the snapshot may not show although
// they are in the stream: their commit is in the WAL, and they are not visible yet.
type sample struct {
	prepared []prepared
	active   []active
}

type prepared struct {
	xid   pipeline.XID
	gid   string
	since pipeline.Timestamp
	// committing: a session may be in the middle of its second phase.
	committing bool
}

// active is a transaction that a session may be committing. Its commit is dated later than since.
type active struct {
	xid   pipeline.XID
	since pipeline.Timestamp // lowest: not known
}

// lowest is before every time.
const lowest = pipeline.Timestamp(-1 << 62)

// witness samples one shard again and again. What was not running in one sample began after it, so for how long a
// transaction runs is known even if the server does not tell this role.
type witness struct {
	since map[pipeline.XID]pipeline.Timestamp // of transactions running in the last sample
	last  pipeline.Timestamp                  // when that was; lowest: never
}

func newWitness() *witness { return &witness{last: lowest} }

const sampleSQL = `
SELECT 'clock', '', '', (extract(epoch FROM statement_timestamp()) * 1000000)::bigint::text, '', ''
UNION ALL
SELECT 'prepared', transaction::text, gid, (extract(epoch FROM prepared) * 1000000)::bigint::text, '', ''
FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()
UNION ALL
SELECT 'session', coalesce(backend_xid::text, ''), coalesce(state, ''), coalesce((extract(epoch FROM query_start) * 1000000)::bigint::text, ''), coalesce(query, ''),
	(query IS NULL OR state IS NULL OR state = 'disabled' OR octet_length(query) >= pg_size_bytes(current_setting('track_activity_query_size')) - 1)::text
FROM pg_catalog.pg_stat_activity
WHERE datid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()
	AND state IS DISTINCT FROM 'idle'`

func (w *witness) sample(ctx context.Context, d *database) (*sample, error) {
	rows, err := d.query(ctx, sampleSQL)
	if err != nil {
		return nil, fmt.Errorf("list open transactions: %w", err)
	}
	s := &sample{}
	var queries []string
	hidden := false
	since := map[pipeline.XID]pipeline.Timestamp{}
	now := lowest
	for _, r := range rows {
		at, err := timestamp(string(r[3]))
		if err != nil {
			return nil, fmt.Errorf("%s: list open transactions: %w", d.name, err)
		}
		xid, err := parseXID(string(r[1]))
		if err != nil {
			return nil, fmt.Errorf("%s: list open transactions: %w", d.name, err)
		}
		switch string(r[0]) {
		case "clock":
			now = at
		case "prepared":
			s.prepared = append(s.prepared, prepared{xid: xid, gid: string(r[2]), since: at})
		case "session":
			hidden = hidden || string(r[5]) == "true"
			queries = append(queries, string(r[4]))
			if xid == 0 {
				continue
			}
			began, known := w.since[xid]
			if !known {
				began = w.last
			}
			since[xid] = began
			// A session that waits for its client's next statement is not committing.
			if !strings.HasPrefix(string(r[2]), "idle in transaction") {
				s.active = append(s.active, active{xid: xid, since: max(began, at)})
			}
		}
	}
	w.since, w.last = since, now
	s.markCommitting(queries, hidden)
	return s, nil
}

func parseXID(text string) (pipeline.XID, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	return pipeline.XID(n), err
}

// timestamp reads microseconds since 1970.
func timestamp(text string) (pipeline.Timestamp, error) {
	if text == "" {
		return lowest, nil
	}
	us, err := strconv.ParseInt(text, 10, 64)
	return pipeline.TimestampOf(time.UnixMicro(us)), err
}

// markCommitting: a second phase is a statement of its own, which names the gid. A statement that cannot be seen whole
// may name any.
func (s *sample) markCommitting(queries []string, hidden bool) {
	for i := range s.prepared {
		p := &s.prepared[i]
		named := strings.ReplaceAll(p.gid, "'", "''")
		p.committing = hidden
		for _, q := range queries {
			p.committing = p.committing || strings.Contains(q, named)
		}
	}
}
