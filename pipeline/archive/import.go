package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"shardcdc/output/jetstream"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/reading"
	"shardcdc/pipeline/wire"
)

const (
	// A batch is stored with one fsync, all or none of it. A server stages it and copies it, so it is small in bytes, too.
	batchMessages = 500
	batchBytes    = 4 << 20
	answerMax     = 30 * time.Second
)

// Options of an import.
type Options struct {
	// Name of the subscription; empty: as it was exported.
	Name string
	// Targets that the stream is replayed on. Those of an earlier import stay.
	Targets []control.Target
	// DDL is what targets do with statements that change tables (control.DDLCapture and others); empty: as it was exported, or
	// as an earlier import said.
	DDL string
	// Progress, if set, is called after every batch.
	Progress func(at pipeline.Seq)
}

// Imported says what an import did.
type Imported struct {
	Subscription string       `json:"subscription"`
	First        pipeline.Seq `json:"first_seq"` // of the file
	Last         pipeline.Seq `json:"last_seq"`
	Messages     int64        `json:"messages"` // that the stream did not have
	Created      bool         `json:"created"`  // the subscription is new here
	CSN          pipeline.CSN `json:"csn"`      // of the file's last transaction
}

// Import brings a file's messages into the stream that they came from, as far as it does not have them, and makes stream and
// subscription if they are not there. It may be repeated.
func Import(ctx context.Context, bus *control.Bus, f *File, o Options) (Imported, error) {
	i := &importing{bus: bus, file: f, options: o, name: o.Name}
	if i.name == "" {
		i.name = f.Head.Subscription.Name
	}
	err := i.run(ctx)
	if err != nil {
		err = fmt.Errorf("import %s: %w", i.name, err)
	}
	return i.done, err
}

type importing struct {
	bus     *control.Bus
	file    *File
	options Options
	name    string
	catalog *control.Catalog
	sub     *control.Subscription // the entry as it will be
	adds    bool                  // a target to an entry that is there
	done    Imported
	from    string // prefix of subjects in the file
	to      string // and in the stream
}

func (i *importing) run(ctx context.Context) (err error) {
	i.done = Imported{Subscription: i.name, First: i.file.Head.First, Last: i.file.End.Last, CSN: i.file.End.CSN}
	i.from, i.to = wire.SubjectOf(i.file.Head.Subscription.Name, ""), wire.SubjectOf(i.name, "")
	if i.catalog, err = control.OpenCatalog(ctx, i.bus.JS, i.bus.Replicas); err != nil {
		return err
	}
	there, err := i.entry(ctx)
	if err != nil {
		return err
	}
	// Before anything is stored: a stream without an entry would be left.
	if err := i.sub.Validate(); err != nil {
		return err
	}
	stream, err := i.stream(ctx, there)
	if err != nil {
		return err
	}
	if first, _ := stream.Borders(); there && i.adds && first > 1 {
		return fmt.Errorf("the stream begins at sequence %d here, so a target that is added now would miss what was before. Try: --name with another one, and the files from the stream's beginning on", first)
	}
	next, err := i.next(ctx, stream)
	if err != nil {
		return err
	}
	if err := i.fill(ctx, next); err != nil {
		return err
	}
	// Last, so that apply workers begin with a stream that has its beginning.
	return i.register(ctx, there)
}

// entry looks for the subscription, and sets what its entry will be. One that is captured here is not to be written into.
func (i *importing) entry(ctx context.Context) (there bool, err error) {
	e, err := i.catalog.Get(ctx, i.name)
	if errors.Is(err, control.ErrNotFound) {
		if i.options.Targets != nil && i.file.Head.First > 1 {
			return false, fmt.Errorf("the file begins at sequence %d, not at the stream's beginning, so a target would miss what is before. Try: import the files before it first; or leave --target out, and the stream can be read", i.file.Head.First)
		}
		sub := *i.file.Head.Subscription
		sub.Name, sub.Targets, sub.State, sub.Imported = i.name, nil, control.Active, true
		i.sub = &sub
		return false, i.change(i.sub)
	}
	switch {
	case err != nil:
		return false, err
	case !e.Imported:
		return true, fmt.Errorf("subscription %s is captured here. Try: --name with another one", i.name)
	case e.Incarnation != i.file.Head.Subscription.Incarnation:
		return true, fmt.Errorf("subscription %s was imported from another stream (incarnation %q, the file's is %q). Try: --name with another one, or cdcctl drop-subscription %s before", i.name, e.Incarnation, i.file.Head.Subscription.Incarnation, i.name)
	case e.State == control.Dropping:
		return true, fmt.Errorf("subscription %s is being dropped. Try: cdcctl drop-subscription %s, which goes on", i.name, i.name)
	}
	i.sub = e.Subscription
	had := len(i.sub.Targets)
	err = i.change(i.sub)
	i.adds = len(i.sub.Targets) > had
	return true, err
}

// stream opens the stream, and makes it when neither it nor an entry is there.
func (i *importing) stream(ctx context.Context, there bool) (*reading.Stream, error) {
	incarnation := i.file.Head.Subscription.Incarnation
	if !there {
		_, err := i.bus.JS.Stream(ctx, wire.StreamName(i.name))
		if errors.Is(err, natsjs.ErrStreamNotFound) {
			err = jetstream.CreateStream(ctx, i.bus.JS, jetstream.StreamConfig{
				Subscription: i.name, Incarnation: incarnation, Replicas: i.bus.Replicas, First: i.file.Head.First,
			})
		}
		if err != nil {
			return nil, err
		}
	}
	s, err := reading.Live(ctx, i.bus.JS, i.name)
	if err != nil {
		return nil, err
	}
	if got := s.Info().Config.Metadata[wire.MetadataIncarnation]; got != incarnation {
		return nil, fmt.Errorf("stream %s is another one than the file's (incarnation %q, the file's is %q). Try: --name with another one, or cdcctl drop-subscription %s before", wire.StreamName(i.name), got, incarnation, i.name)
	}
	return s, nil
}

// next is the first sequence that the stream does not have. Where file and stream overlap, they must be the same.
func (i *importing) next(ctx context.Context, s *reading.Stream) (pipeline.Seq, error) {
	last := pipeline.Seq(s.Info().State.LastSeq)
	if i.file.Head.First > last+1 {
		return 0, fmt.Errorf("the file begins at sequence %d, and the stream ends at %d: what is between is missing. Try: import the file that holds sequence %d first; or cdcctl export … --from-csn with the last CSN that was imported here", i.file.Head.First, last, last+1)
	}
	both := min(last, i.file.End.Last)
	if both < i.file.Head.First {
		return last + 1, nil
	}
	have, err := s.Get(ctx, both)
	if errors.Is(err, reading.ErrGone) {
		return last + 1, nil // removed since it was imported
	}
	if err != nil {
		return 0, err
	}
	want, err := i.file.Get(ctx, both)
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(have.Data, want.Data) || have.Subject != i.subject(want) || have.Header.Get(wire.HeaderCheckpoint) != want.Header.Get(wire.HeaderCheckpoint) {
		return 0, fmt.Errorf("message %d of the stream is another one than the file's: the stream that was exported was set back and went on otherwise. Try: cdcctl drop-subscription %s, then import anew from the beginning", both, i.name)
	}
	return last + 1, nil
}

// subject is a message's, under the subscription's name here.
func (i *importing) subject(m *reading.Message) string {
	return i.to + strings.TrimPrefix(m.Subject, i.from)
}

// fill publishes what the stream does not have.
func (i *importing) fill(ctx context.Context, next pipeline.Seq) error {
	var batch []*nats.Msg
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := i.publish(ctx, next, batch); err != nil {
			return fmt.Errorf("publish sequence %d to %d: %w. Try: the same command again; it goes on where this one stopped", next, next+pipeline.Seq(len(batch))-1, err)
		}
		next += pipeline.Seq(len(batch))
		i.done.Messages += int64(len(batch))
		batch, size = batch[:0], 0
		if i.options.Progress != nil {
			i.options.Progress(next - 1)
		}
		return nil
	}
	err := i.file.Read(ctx, next, false, func(m *reading.Message) error {
		msg := i.message(m)
		if limit := i.bus.NC.MaxPayload(); int64(msg.Size()) > limit {
			return fmt.Errorf("message %d has %d bytes, and the NATS server takes %d (max_payload). Try: max_payload: %dMB in its configuration", m.Seq, msg.Size(), limit, msg.Size()>>20+1)
		}
		if len(batch) == batchMessages || len(batch) > 0 && size+len(m.Data) > batchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, msg), size+len(m.Data)
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// message is one as it is published here: what its first publish demanded of NATS is left out.
func (i *importing) message(m *reading.Message) *nats.Msg {
	msg := nats.NewMsg(i.subject(m))
	msg.Data = m.Data
	for name, values := range m.Header {
		if !strings.HasPrefix(name, "Nats-") {
			msg.Header[name] = values
		}
	}
	return msg
}

// The headers of an atomic batch (JetStream's ADR-50).
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// publish stores messages, all or none, the first under the sequence next: the commit point of an import.
func (i *importing) publish(ctx context.Context, next pipeline.Seq, batch []*nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	last := len(batch) - 1
	batch[0].Header.Set(natsjs.ExpectedLastSeqHeader, strconv.FormatUint(uint64(next-1), 10))
	if last > 0 {
		id := nuid.Next()
		for n, m := range batch {
			m.Header.Set(headerBatchID, id)
			m.Header.Set(headerBatchSequence, strconv.Itoa(n+1))
		}
		batch[last].Header.Set(headerBatchCommit, "1")
	}
	for n, m := range batch[:last] {
		if n > 0 {
			if err := i.bus.NC.PublishMsg(m); err != nil {
				return err
			}
			continue
		}
		// The first one asks for an answer, so that a refusal is known before the rest is sent.
		reply, err := i.bus.NC.RequestMsgWithContext(ctx, m)
		if err != nil {
			return err
		}
		if len(reply.Data) > 0 {
			if _, err := stored(reply.Data); err != nil {
				return err
			}
		}
	}
	reply, err := i.bus.NC.RequestMsgWithContext(ctx, batch[last])
	if err != nil {
		return err
	}
	seq, err := stored(reply.Data)
	if err == nil && seq != next+pipeline.Seq(last) {
		err = fmt.Errorf("stored at sequence %d, expected %d: someone else writes to the stream", seq, next+pipeline.Seq(last))
	}
	return err
}

// stored reads JetStream's answer to a publish.
func stored(answer []byte) (pipeline.Seq, error) {
	var ack struct {
		Seq   pipeline.Seq     `json:"seq"`
		Error *natsjs.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer, &ack); err != nil {
		return 0, fmt.Errorf("answer %q: %w", answer, err)
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	return ack.Seq, nil
}

// register makes the catalog's entry, or changes it.
func (i *importing) register(ctx context.Context, there bool) error {
	if !there {
		i.done.Created = true
		return i.catalog.Create(ctx, i.sub)
	}
	_, err := i.catalog.Change(ctx, i.name, i.change)
	return err
}

// change makes of an entry what the options ask for.
func (i *importing) change(sub *control.Subscription) error {
	if i.options.DDL != "" {
		sub.DDL = i.options.DDL
	}
	for _, t := range i.options.Targets {
		if err := addTarget(sub, t); err != nil {
			return err
		}
	}
	return nil
}

// addTarget adds a target that is not there yet.
func addTarget(sub *control.Subscription, t control.Target) error {
	for _, have := range sub.Targets {
		switch {
		case have == t:
			return nil
		case have.Name == t.Name:
			return fmt.Errorf("target %s is another database already. Try: --target NAME=DSN with another name", t.Name)
		}
	}
	sub.Targets = append(sub.Targets, t)
	return nil
}
