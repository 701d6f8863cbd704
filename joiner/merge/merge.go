package merge

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"shardcdc/pipeline"
)

// Config says what to merge.
type Config struct {
	// Shards is their number; they are ShardID 0 to Shards-1.
	Shards int
	// MaxClockSkew is the most by which two shards' clocks may differ at one instant.
	MaxClockSkew time.Duration
	// DatesBehind says how far, in bytes of WAL, a shard's stream must be behind a flushed position of its server before
	// the dates of its records count as evidence (see the package doc). Dates are only as good as the clocks were
	// when they were written; near its end a stream does not need them. 0: they always count.
	DatesBehind pipeline.LSN
	// GlobalID maps the gid of a PREPARE TRANSACTION to the id that all fragments of its transaction share.
	GlobalID func(gid string) string
	// Start is where to go on: the checkpoint of the stream's last unit; for a new stream one entry per shard
	// whose Through is the position that its slot was made at.
	Start pipeline.Checkpoint
	// BytesMax bounds the bytes of row data held, over all shards; 0 means no bound. When it is exceeded,
	// Admits holds back the shards that nothing waits for. A shard that is waited for may exceed it.
	BytesMax int
	// FragmentBytes is counted for every fragment with changes besides its row data: what it takes in memory itself.
	// Without it, BytesMax bounds nothing when transactions are small.
	FragmentBytes int
	// BatchMax bounds the number of messages that a batch becomes; 0 means no bound. A transaction that alone exceeds it is
	// alone in its batch.
	BatchMax int
	// Messages says how many messages a transaction becomes at most; nil: one.
	Messages func(*pipeline.Transaction) int
	// Singly: as long as no more transactions than this may leave, each is a batch of its own. 0: they leave together.
	Singly int
	// Watermarks: who reads the stream wants to know, while there are no transactions, up to where there are none: Idle has
	// the shards asked, and Heartbeat tells.
	Watermarks bool
	// Alone, if set, says of a transaction that it must be the only one of its batch.
	Alone func(*pipeline.Transaction) bool
}

// Merger is the state machine. Its methods must not be called at the same time.
type Merger struct {
	conf   Config
	slack  pipeline.Timestamp // MaxClockSkew in the shards' unit
	shards []*shard

	byGlobal map[string]*family // what is prepared or decided, until its second phases are processed
	waiting  order              // transactions that have their CSN and have not left
	doubtful fifo[*txn]         // remembered beyond their end, about in order of when to forget them
	runnable []*shard           // queues to process, and
	closing  []*txn             // transactions that a shard was closed for, to seal if that was the last, and
	sealed   []*txn             // transactions to place; see run

	last    pipeline.CSN // of the last transaction taken
	sent    pipeline.Checkpoint
	flying  fifo[int] // weight of the batches taken and not durable
	held    int       // weight of what is in memory, from Offer to Durable
	failure error
	dropped []*pipeline.Fragment // whose Content nobody needs; see Dropped
	counts  Counts

	//lint:ignore U1000 only with -tags invariants
	asserted pipeline.CSN // the highest watermark seen by assertInvariants
}

// Counts are running totals.
type Counts struct {
	Commits   uint64 // one-phase commits with changes, processed
	Prepares  uint64 // PREPAREs processed
	Placed    uint64 // distributed transactions that got their CSN
	Taken     uint64 // transactions handed out
	Pauses    uint64 // times that a stream stopped at a decision
	ByProbe   uint64 // shards closed for a transaction by a probe
	ByDate    uint64 // by the date of a later record
	RolledOut uint64 // prepared fragments rolled back
	StepsBack uint64 // times that a shard's clock was seen to step back by more than MaxClockSkew
}

// New makes a Merger that goes on from c.Start.
func New(c Config) (*Merger, error) {
	if c.Shards < 1 {
		return nil, errors.New("merge: no shards")
	}
	if len(c.Start.Shards) != c.Shards {
		return nil, fmt.Errorf("merge: checkpoint of %d shards for %d", len(c.Start.Shards), c.Shards)
	}
	if c.MaxClockSkew <= 0 {
		return nil, errors.New("merge: max clock skew must be positive")
	}
	if c.GlobalID == nil {
		return nil, errors.New("merge: no gid rule")
	}
	m := &Merger{
		conf:     c,
		slack:    pipeline.Timestamp(c.MaxClockSkew / time.Microsecond),
		byGlobal: map[string]*family{},
		waiting:  newOrder(),
		last:     c.Start.Last,
		sent:     c.Start,
	}
	for i := range c.Shards {
		m.shards = append(m.shards, newShard(pipeline.ShardID(i), c.Start.Watermark, &c.Start.Shards[i]))
	}
	return m, nil
}

// Watermark is W: everything at or below it has been placed.
func (m *Merger) Watermark() pipeline.CSN {
	w := m.shards[0].floor
	for _, s := range m.shards[1:] {
		w = min(w, s.floor)
	}
	return w
}

// Admits says whether more of the shard's records may be offered. It is false only while more than BytesMax
// is held, nothing waits for this shard, and something is about to free memory: a transaction that may leave
// or is on its way, or another shard that is waited for. When undecided transactions alone exceed BytesMax,
// only reading on can free them, so every shard is admitted.
func (m *Merger) Admits(id pipeline.ShardID) bool {
	return m.conf.BytesMax <= 0 || m.held < m.conf.BytesMax || m.MustAdmit(id)
}

// exhausted says that without new records nothing will ever leave.
func (m *Merger) exhausted() bool {
	return m.waiting.len() == 0 && m.flying.len() == 0 && !slices.ContainsFunc(m.shards, m.waitsFor)
}

// waitsFor says whether progress needs more of the shard's stream.
func (m *Merger) waitsFor(s *shard) bool {
	if s.awaited() != nil || len(s.marks) > 0 {
		return true
	}
	return s.queue.len() == 0 && m.holdsBack(s)
}

// holdsBack says whether the first transaction in line waits for the shard's floor.
func (m *Merger) holdsBack(s *shard) bool {
	first := m.waiting.min()
	return first != nil && s.floor < first.tx.CSN
}

// Take hands out the transactions that may leave, at least one if ok, in rising CSN: about bytesMax bytes of
// row data and at most BatchMax messages, more only if the first transaction alone is larger.
func (m *Merger) Take(bytesMax int) (pipeline.Batch, bool) {
	w := m.Watermark()
	b := pipeline.Batch{Previous: m.last}
	if m.failure != nil {
		return b, false
	}
	size, messages, weight, complete := int64(0), 0, 0, true
	closed, singly := false, m.singly(w)
	for {
		first := m.waiting.min()
		if first == nil || first.tx.CSN > w {
			break
		}
		size += first.tx.Bytes()
		messages += m.messages(&first.tx)
		alone := singly || m.conf.Alone != nil && m.conf.Alone(&first.tx)
		full := size > int64(bytesMax) || m.conf.BatchMax > 0 && messages > m.conf.BatchMax
		if len(b.Transactions) > 0 && (closed || alone || full) {
			complete = false
			break
		}
		closed = alone
		m.waiting.drop(first)
		for _, f := range first.tx.Fragments {
			weight += m.weight(f)
		}
		m.last = first.tx.CSN
		b.Transactions = append(b.Transactions, &first.tx)
		if first.t != nil {
			first.t.taken = true
			first.t.release()
		}
	}
	if len(b.Transactions) == 0 {
		return b, false
	}
	if !complete {
		w = m.last
	}
	m.counts.Taken += uint64(len(b.Transactions))
	m.flying.push(weight)
	b.Checkpoint = m.checkpoint(w)
	m.sent = b.Checkpoint
	return b, true
}

// singly says that the transactions that may leave with watermark w are so few that each is a batch.
func (m *Merger) singly(w pipeline.CSN) bool {
	return m.conf.Singly > 0 && m.waiting.upTo(w, m.conf.Singly+1) <= m.conf.Singly
}

func (m *Merger) messages(tx *pipeline.Transaction) int {
	if m.conf.Messages == nil {
		return 1
	}
	return m.conf.Messages(tx)
}

// Idle has every shard asked for the time that nothing else tells, and says whether it did: see Config.Watermarks. The answers
// raise the floors, and so the watermark of the next Heartbeat.
func (m *Merger) Idle() bool {
	if !m.conf.Watermarks || m.failure != nil {
		return false
	}
	for _, s := range m.shards {
		if s.queue.len() == 0 && len(s.marks) == 0 {
			s.wanted = max(s.wanted, s.answered+1)
		}
	}
	return true
}

// Heartbeat hands out a batch without transactions if the checkpoint has moved since the last batch although
// nothing may leave. Publishing it lets the slots of quiet shards move on.
func (m *Merger) Heartbeat() (pipeline.Batch, bool) {
	if m.failure != nil || m.Ready() {
		return pipeline.Batch{}, false
	}
	c := m.checkpoint(m.Watermark())
	moved := m.conf.Watermarks && c.Watermark > m.sent.Watermark
	for i := range c.Shards {
		was, is := &m.sent.Shards[i], &c.Shards[i]
		moved = moved || is.Through != was.Through || is.Safe() != was.Safe()
	}
	if !moved {
		return pipeline.Batch{}, false
	}
	m.flying.push(0)
	m.sent = c
	return pipeline.Batch{Previous: m.last, Checkpoint: c}, true
}

// Durable says that the unit with this checkpoint is durable in the stream. Calls follow the order of Take
// and Heartbeat.
func (m *Merger) Durable(c *pipeline.Checkpoint) {
	m.held -= m.flying.pop()
	for i, s := range m.shards {
		s.confirmed = max(s.confirmed, c.Shards[i].Safe())
	}
}

// Confirmed is the position that may be confirmed to the shard's slot.
func (m *Merger) Confirmed(id pipeline.ShardID) pipeline.LSN { return m.shards[id].confirmed }

// Ready says whether Take would hand out something.
func (m *Merger) Ready() bool {
	first := m.waiting.min()
	return first != nil && m.failure == nil && first.tx.CSN <= m.Watermark()
}

// drop lets go of a fragment that will not be handed out.
func (m *Merger) drop(f *pipeline.Fragment) {
	if f.Content != nil {
		m.dropped = append(m.dropped, f)
	}
}

// Dropped appends the fragments that were dropped since the last call, of those whose body is not in memory: the
// caller releases it. (What Take handed out is the caller's to release when it is durable.)
func (m *Merger) Dropped(dst []*pipeline.Fragment) []*pipeline.Fragment {
	dst = append(dst, m.dropped...)
	clear(m.dropped)
	m.dropped = m.dropped[:0]
	return dst
}

// Held is how many bytes are in memory, as BytesMax counts them.
func (m *Merger) Held() int { return m.held }

// MustAdmit says that to hold the shard back would help nobody: something waits for it, or only reading on can free
// memory.
func (m *Merger) MustAdmit(id pipeline.ShardID) bool {
	return m.waitsFor(m.shards[id]) || m.exhausted()
}

// weight is what a fragment counts for BytesMax; one without changes is not kept.
func (m *Merger) weight(f *pipeline.Fragment) int {
	if f.Changes == 0 {
		return 0
	}
	return len(f.Body) + m.conf.FragmentBytes
}

func (m *Merger) fail(format string, args ...any) error {
	m.failure = fmt.Errorf("merge: "+format, args...)
	return m.failure
}
