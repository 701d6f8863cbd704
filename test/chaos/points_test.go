package chaos

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"
	"time"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/wire"
	"shardcdc/test/harness"
)

// A point is a step that something durable depends on, as it shows in the bytes between two processes.
type point struct {
	name   string
	proxy  func(*stage) *harness.Proxy
	places []harness.Place
	// find makes a function that says of each message whether it is the step. It may remember what it saw.
	find func(*stage) func(harness.Message) bool
	// provoke makes the step come where traffic alone does not.
	provoke func(*stage)
	shape   shape
}

// shape of the transactions that make the step come.
type shape int

const (
	either shape = iota // the bank's own, and then a large one
	small               // the bank's own
	large               // a large one: the step is in no other
)

var (
	around    = []harness.Place{harness.Before, harness.Behind}
	throughIt = []harness.Place{harness.Before, harness.Inside, harness.Behind}
)

// nodePoints are the steps of capture on its way to NATS: "before" a request is failed, "behind" it is failed but had
// happened, since its answer is held as well; "before" an answer is the same a little later.
func nodePoints() []point {
	toNATS := func(s *stage) *harness.Proxy { return s.c.NodeNATS }
	return []point{
		{name: "the lease is taken", proxy: toNATS, places: around, shape: small, find: published(captureLease, first), provoke: (*stage).moveCapture},
		{name: "the lease is renewed", proxy: toNATS, places: around, shape: small, find: published(captureLease, later)},
		{name: "the epoch", proxy: toNATS, places: around, shape: small, find: published(epoch), provoke: (*stage).moveCapture},
		{name: "the epoch's answer", proxy: toNATS, places: around, shape: small, find: answered(published(epoch)), provoke: (*stage).moveCapture},
		{name: "a unit", proxy: toNATS, places: throughIt, shape: small, find: published(unit, alone)},
		{name: "a unit's answer", proxy: toNATS, places: throughIt, shape: small, find: answered(published(unit, alone))},
		{name: "the first part", proxy: toNATS, places: throughIt, shape: large, find: published(unit, part("1"))},
		{name: "a part", proxy: toNATS, places: throughIt, shape: large, find: published(unit, part("3"), not(unitEnd))},
		{name: "a part's answer", proxy: toNATS, places: around, shape: large, find: answered(published(unit, part("3"), not(unitEnd)))},
		{name: "the last part", proxy: toNATS, places: throughIt, shape: large, find: published(unit, part(""), unitEnd)},
		{name: "the last part's answer", proxy: toNATS, places: around, shape: large, find: answered(published(unit, part(""), unitEnd))},
	}
}

// shardPoints are the steps between capture and a shard.
func shardPoints() []point {
	toShard := func(s *stage) *harness.Proxy { return s.c.ShardProxies[s.shard] }
	reconnect := func(s *stage) { s.c.ShardProxies[s.shard].Reset() }
	return []point{
		{name: "START_REPLICATION", proxy: toShard, places: around, shape: small, find: sent('Q', "START_REPLICATION"), provoke: reconnect},
		{name: "a position is confirmed", proxy: toShard, places: around, find: confirms},
		{name: "a prepared transaction comes", proxy: toShard, places: around, find: streams('P', 'p')},
		{name: "a second phase comes", proxy: toShard, places: around, find: streams('K')},
		{name: "changes come before the commit", proxy: toShard, places: around, shape: large, find: streams('E')},
	}
}

// targetPoints are the steps of apply on the target. "Behind" is behind the statement's execution: it happened.
func targetPoints() []point {
	toTarget := func(s *stage) *harness.Proxy { return s.c.TargetProxy }
	reconnect := func(s *stage) { s.c.TargetProxy.Reset() }
	return []point{
		{name: "the progress is read", proxy: toTarget, places: around, shape: small, find: sent('P', "SELECT stream_id, csn"), provoke: reconnect},
		{name: "the progress is locked", proxy: toTarget, places: around, shape: small, find: locked, provoke: reconnect},
		{name: "BEGIN", proxy: toTarget, places: around, find: executes("cdc_begin")},
		{name: "the progress is written", proxy: toTarget, places: around, find: executes("cdc_progress")},
		{name: "the first row", proxy: toTarget, places: around, find: firstRow},
		{name: "rows in the middle", proxy: toTarget, places: throughIt, shape: large, find: middle},
		{name: "rows are sent", proxy: toTarget, places: around, find: rowsSynced},
		{name: "COMMIT", proxy: toTarget, places: throughIt, find: executes("cdc_commit")},
		{name: "the answer to COMMIT", proxy: toTarget, places: throughIt, find: committed},
	}
}

// workerPoints are the steps of apply on the side of NATS.
func workerPoints() []point {
	toNATS := func(s *stage) *harness.Proxy { return s.c.ApplyNATS }
	return []point{
		{name: "the worker's lease is taken", proxy: toNATS, places: around, shape: small, find: published(applyLease, first), provoke: (*stage).moveApply},
		{name: "the worker's lease is renewed", proxy: toNATS, places: around, shape: small, find: published(applyLease, later)},
		{name: "the consumer is made", proxy: toNATS, places: around, shape: small, find: published(consumer), provoke: (*stage).moveApply},
		{name: "a unit is delivered", proxy: toNATS, places: throughIt, find: delivered},
	}
}

// Of NATS.

// is says whether a message is wanted.
type is func(*stage, *harness.NATSMessage) bool

func captureLease(s *stage, m *harness.NATSMessage) bool {
	return strings.HasSuffix(m.Subject, ".capture."+s.c.Sub.Name)
}

func applyLease(s *stage, m *harness.NATSMessage) bool {
	return strings.Contains(m.Subject, ".apply."+s.c.Sub.Name+".")
}

func epoch(s *stage, m *harness.NATSMessage) bool {
	return m.Subject == wire.EpochSubject(s.c.Sub.Name)
}

func unit(s *stage, m *harness.NATSMessage) bool { return m.Subject == wire.Subject(s.c.Sub.Name) }

func consumer(s *stage, m *harness.NATSMessage) bool {
	return strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.CREATE."+wire.StreamName(s.c.Sub.Name))
}

// first and later tell a lease that is taken, after the case began, from one that is renewed: the first renewal is a third
// of its time later.
func first(s *stage, m *harness.NATSMessage) bool {
	var o control.Owner
	if err := json.Unmarshal(m.Data, &o); err != nil {
		return false // it is given back
	}
	return o.Since.After(s.began) && time.Since(o.Since) < lease/3
}

func later(s *stage, m *harness.NATSMessage) bool { return len(m.Data) > 0 && !first(s, m) }

func alone(_ *stage, m *harness.NATSMessage) bool   { return m.Get(wire.HeaderPart) == "" }
func unitEnd(_ *stage, m *harness.NATSMessage) bool { return m.Get(wire.HeaderCheckpoint) != "" }

// part is part k of a payload of several; empty: any.
func part(k string) is {
	return func(_ *stage, m *harness.NATSMessage) bool {
		of, _, parted := strings.Cut(m.Get(wire.HeaderPart), "/")
		return parted && (k == "" || of == k)
	}
}

func not(x is) is { return func(s *stage, m *harness.NATSMessage) bool { return !x(s, m) } }

type finder func(*stage) func(harness.Message) bool

// published finds a message that the client publishes.
func published(all ...is) finder {
	return func(s *stage) func(harness.Message) bool {
		return func(b harness.Message) bool {
			if b.Direction != harness.ToServer {
				return false
			}
			m, ok := harness.ParseNATS(b.Bytes)
			for _, x := range all {
				ok = ok && x(s, &m)
			}
			return ok
		}
	}
}

// answered finds the answer to a message that another finder finds.
func answered(request finder) finder {
	return func(s *stage) func(harness.Message) bool {
		find := request(s)
		waiting := map[string]bool{} // for answers, by the subject where they come
		return func(b harness.Message) bool {
			if find(b) {
				m, _ := harness.ParseNATS(b.Bytes)
				waiting[m.Reply] = true
				return false
			}
			if b.Direction == harness.ToServer || len(waiting) == 0 {
				return false
			}
			m, ok := harness.ParseNATS(b.Bytes)
			return ok && waiting[m.Subject]
		}
	}
}

// delivered finds a message of the stream on its way to a worker: its last one of a large transaction, if there is one.
func delivered(s *stage) func(harness.Message) bool {
	return func(b harness.Message) bool {
		m, ok := harness.ParseNATS(b.Bytes)
		return b.Direction == harness.ToClient && ok && unit(s, &m) && (!s.large || m.Get(wire.HeaderPart) != "")
	}
}

// Of PostgreSQL.

// sent finds a message of the type, whose text holds what is given.
func sent(kind byte, text string) finder {
	return func(*stage) func(harness.Message) bool {
		return func(b harness.Message) bool {
			return b.Direction == harness.ToServer && b.Bytes[0] == kind && bytes.Contains(b.Bytes, []byte(text))
		}
	}
}

// confirms finds a status update whose flushed position is higher than the one before.
func confirms(*stage) func(harness.Message) bool {
	last := map[int]uint64{}
	return func(b harness.Message) bool {
		if b.Direction != harness.ToServer || b.Bytes[0] != 'd' || len(b.Bytes) < 22 || b.Bytes[5] != 'r' {
			return false
		}
		flushed := binary.BigEndian.Uint64(b.Bytes[14:])
		before, seen := last[b.Link]
		last[b.Link] = flushed
		return seen && flushed > before
	}
}

// streams finds a message of pgoutput of one of the kinds.
func streams(kinds ...byte) finder {
	return func(*stage) func(harness.Message) bool {
		return func(b harness.Message) bool {
			const body = 5 + 1 + 3*8 // CopyData, XLogData
			return b.Direction == harness.ToClient && b.Bytes[0] == 'd' && len(b.Bytes) > body && b.Bytes[5] == 'w' && bytes.IndexByte(kinds, b.Bytes[body]) >= 0
		}
	}
}

// statements follows what a session executes: bound is what was bound last; rows counts the statements for rows, and bytes
// everything, since BEGIN. How many rows a statement is for cannot be seen.
type statements struct {
	bound string
	rows  int
	bytes int
	open  bool
}

// Of the bytes that a large transaction's rows take: more than all of the bank's own transactions that may go together with
// none of it, and somewhere in its midst. It is one of largeRows rows.
const (
	bytesOfLarge  = 2 << 20
	bytesOfMiddle = largeRows * largeRow * harness.Shards / 2
)

// ofLarge says that the transaction has the rows of a large one behind it.
func (x *statements) ofLarge() bool { return x.bytes >= bytesOfLarge }

// see takes a message of the client, and says what it is: the statement that it binds or executes, "sync", or nothing.
func (x *statements) see(b []byte) (binds, executes string, syncs bool) {
	x.bytes += len(b)
	switch b[0] {
	case 'B':
		_, rest, _ := bytes.Cut(b[5:], []byte{0})
		name, _, _ := bytes.Cut(rest, []byte{0})
		x.bound = string(name)
		switch {
		case x.bound == "cdc_begin":
			x.rows, x.bytes, x.open = 0, 0, true
		case isRow(x.bound):
			x.rows++
		}
		return x.bound, "", false
	case 'E':
		if x.bound == "cdc_commit" {
			x.open = false
		}
		return "", x.bound, false
	case 'S':
		return "", "", true
	}
	return "", "", false
}

// isRow says whether a statement writes rows: their names are numbered.
func isRow(statement string) bool {
	return strings.HasPrefix(statement, "cdc_") && len(statement) > 4 && statement[4] >= '0' && statement[4] <= '9'
}

// perLink makes a finder that follows the statements of each connection.
func perLink(find func(s *stage, x *statements, b harness.Message) bool) finder {
	return func(s *stage) func(harness.Message) bool {
		all := map[int]*statements{}
		return func(b harness.Message) bool {
			if all[b.Link] == nil {
				all[b.Link] = &statements{}
			}
			return find(s, all[b.Link], b)
		}
	}
}

// executes finds a prepared statement: its Bind where the place is before it, else its Execute. Of a transaction that has
// its rows behind it, a large one is meant.
func executes(statement string) finder {
	return perLink(func(s *stage, x *statements, b harness.Message) bool {
		if b.Direction != harness.ToServer {
			return false
		}
		binds, executed, _ := x.see(b.Bytes)
		if s.large && statement == "cdc_commit" && !x.ofLarge() {
			return false
		}
		if s.place == harness.Behind {
			return executed == statement
		}
		return binds == statement
	})
}

// firstRow finds the first statement for rows of a transaction.
var firstRow = perLink(func(s *stage, x *statements, b harness.Message) bool {
	if b.Direction != harness.ToServer {
		return false
	}
	binds, executed, _ := x.see(b.Bytes)
	if s.place == harness.Behind {
		return isRow(executed) && x.rows == 1
	}
	return isRow(binds) && x.rows == 1
})

// middle finds rows, in a statement of their own or in the data of a COPY, with about half of a large transaction before them.
var middle = perLink(func(_ *stage, x *statements, b harness.Message) bool {
	if b.Direction != harness.ToServer {
		return false
	}
	binds, _, _ := x.see(b.Bytes)
	return x.open && x.bytes >= bytesOfMiddle && (b.Bytes[0] == 'd' || isRow(binds))
})

// rowsSynced finds the end of a chunk of rows.
var rowsSynced = perLink(func(s *stage, x *statements, b harness.Message) bool {
	if b.Direction != harness.ToServer {
		return false
	}
	_, _, syncs := x.see(b.Bytes)
	return syncs && x.open && x.rows > 0 && (!s.large || x.ofLarge())
})

// locked finds the end of the statement that reads the progress, which locks it.
func locked(*stage) func(harness.Message) bool {
	reads := map[int]bool{}
	return func(b harness.Message) bool {
		if b.Direction != harness.ToServer {
			return false
		}
		if b.Bytes[0] == 'P' {
			reads[b.Link] = bytes.Contains(b.Bytes, []byte("SELECT stream_id, csn"))
		}
		return b.Bytes[0] == 'E' && reads[b.Link]
	}
}

// committed finds the answer to a COMMIT.
var committed = perLink(func(s *stage, x *statements, b harness.Message) bool {
	if b.Direction == harness.ToServer {
		x.see(b.Bytes)
		return false
	}
	return b.Bytes[0] == 'C' && bytes.HasPrefix(b.Bytes[5:], []byte("COMMIT\x00")) && (!s.large || x.ofLarge())
})
