package jetstream

import (
	"strconv"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline/wire"
)

// letter is the message that is being sent. There is one for all, filled anew for each: the client copies what it sends, so a
// message costs no header map of its own, of which a unit in JSON would need hundreds.
type letter struct {
	msg    nats.Msg
	values [24][1]string // of the headers
	n      int
}

// The headers of an atomic batch (JetStream's ADR-50).
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// write makes message i of a group; batch is the name of the atomic batch that the group is, empty when it is one message. The
// result is good until the next one is written.
func (l *letter) write(p *Publisher, g *group, i int, batch string) *nats.Msg {
	if l.msg.Header == nil {
		l.msg.Header = make(nats.Header, len(l.values))
	}
	clear(l.msg.Header)
	l.n = 0
	m, last := &g.msgs[i], i == len(g.msgs)-1
	l.msg.Subject, l.msg.Data = m.subject, m.data
	if g.epoch != "" {
		l.set(wire.HeaderFormat, p.conf.Format)
	}
	l.set(wire.HeaderEpoch, g.epoch)
	l.set(wire.HeaderUnit, g.unit)
	l.set(wire.HeaderCSN, m.csn)
	l.set(wire.HeaderPart, m.part)
	for _, h := range m.headers {
		l.set(h.Name, h.Value)
	}
	if i == 0 { // the fence
		l.set(natsjs.ExpectedLastSeqHeader, strconv.FormatUint(uint64(p.last), 10))
		l.set(natsjs.ExpectedLastSubjSeqHeader, strconv.FormatUint(uint64(p.epoch), 10))
		l.set(natsjs.ExpectedLastSubjSeqSubjHeader, p.subjects.epoch)
	}
	if last {
		l.set(wire.HeaderCheckpoint, g.checkpoint)
		l.set(wire.HeaderWatermark, g.watermark)
		l.set(wire.HeaderTaken, g.taken)
	}
	if batch != "" {
		l.set(headerBatchID, batch)
		l.set(headerBatchSequence, strconv.Itoa(i+1))
		if last {
			l.set(headerBatchCommit, "1")
		}
	}
	return &l.msg
}

// set sets a header; the empty value is none.
func (l *letter) set(name, value string) {
	if value == "" {
		return
	}
	if l.n == len(l.values) {
		l.msg.Header[name] = []string{value}
		return
	}
	l.values[l.n][0] = value
	l.msg.Header[name] = l.values[l.n][:]
	l.n++
}
