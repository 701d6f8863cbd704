package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"shardcdc/pipeline"
)

const (
	historyStream  = "CDC_HISTORY"
	historySubject = "cdc_history."
	// movesMax bounds what is kept of each kind of event that processes cause, per subscription and target. They come by
	// themselves, and may come often.
	movesMax = 200
)

// EventKind says what happened to a subscription.
type EventKind string

// What people did: kept for ever.
const (
	Created  EventKind = "created"
	Imported EventKind = "imported"
	Altered  EventKind = "altered"
	Halted   EventKind = "paused"
	Resumed  EventKind = "resumed"
	Dropped  EventKind = "dropped"
	Skipped  EventKind = "skipped"
	// Tables joined, left, or are copied anew.
	TablesAdded   EventKind = "tables_added"
	TablesRemoved EventKind = "tables_removed"
	Resynced      EventKind = "tables_resynced"
	// Repaired is the only act that writes into tables of a target.
	Repaired EventKind = "repaired"
)

// What processes did: the last movesMax of each are kept.
const (
	CaptureMoved   EventKind = "capture_moved"
	CaptureStopped EventKind = "capture_stopped"
	ApplyMoved     EventKind = "apply_moved"
	ApplyStopped   EventKind = "apply_stopped"
)

// Event is an entry of the history.
type Event struct {
	At           time.Time    `json:"at"`
	Subscription string       `json:"subscription"`
	Incarnation  string       `json:"incarnation"` // of the subscription; a name may be used again
	Kind         EventKind    `json:"kind"`
	By           string       `json:"by"` // user@host of a person, or a process's name
	Target       string       `json:"target,omitempty"`
	CSN          pipeline.CSN `json:"csn,omitempty"`
	From         string       `json:"from,omitempty"` // a lease: the process that held it before
	To           string       `json:"to,omitempty"`   // the process that has it now
	Why          string       `json:"why,omitempty"`
	// Repaired counts the rows that were written on the target, by table.
	Repaired map[string]int64 `json:"repaired,omitempty"`
}

// subject: what people do has a subject of its own each, so that the limit per subject never takes it.
func (e *Event) subject() string {
	s := historySubject + e.Subscription + "." + string(e.Kind)
	switch e.Kind {
	case CaptureMoved, CaptureStopped:
		return s
	case ApplyMoved, ApplyStopped:
		return s + "." + e.Target
	}
	return s + "." + nuid.Next()
}

// History is what happened to the subscriptions: a stream that outlives them.
type History struct {
	js     jetstream.JetStream
	stream jetstream.Stream
}

// OpenHistory opens the history and makes it if it is not there.
func OpenHistory(ctx context.Context, js jetstream.JetStream, replicas int) (*History, error) {
	stream, err := js.Stream(ctx, historyStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = js.CreateStream(ctx, jetstream.StreamConfig{
			Name: historyStream, Description: "what happened to the subscriptions of shardcdc", Subjects: []string{historySubject + ">"},
			MaxMsgsPerSubject: movesMax, Discard: jetstream.DiscardOld, AllowDirect: true, Replicas: max(replicas, 1),
		})
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = js.Stream(ctx, historyStream) // made by somebody else meanwhile
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the history: %w", err)
	}
	return &History{js: js, stream: stream}, nil
}

// Record adds an event; it is durable when Record returns without an error.
func (h *History) Record(ctx context.Context, e Event) error {
	if err := CheckName("subscription", e.Subscription); err != nil {
		return err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	msg := &nats.Msg{Subject: e.subject(), Data: b}
	if _, err := h.js.PublishMsg(ctx, msg, jetstream.WithMsgID(nuid.Next())); err != nil {
		return fmt.Errorf("record in the history that %s was %s: %w", e.Subscription, e.Kind, err)
	}
	return nil
}

// RecordStop adds an event, unless the last one of its kind says already that the same transaction is refused: whoever
// takes over meets it again.
func (h *History) RecordStop(ctx context.Context, e Event) error {
	if e.CSN != 0 {
		last, err := h.last(ctx, e)
		if err != nil {
			return err
		}
		if last != nil && last.CSN == e.CSN && last.Incarnation == e.Incarnation {
			return nil
		}
	}
	return h.Record(ctx, e)
}

// Read returns what is known of a subscription, or of all when name is empty, the newest last.
func (h *History) Read(ctx context.Context, name string) ([]Event, error) {
	filter := historySubject + ">"
	if name != "" {
		if err := CheckName("subscription", name); err != nil {
			return nil, err
		}
		filter = historySubject + name + ".>"
	}
	events, err := h.read(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	return events, nil
}

func (h *History) read(ctx context.Context, filter string) ([]Event, error) {
	consumer, err := h.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}})
	if err != nil {
		return nil, err
	}
	events := []Event{}
	// Left alone it would go after minutes, and their number is limited.
	defer func() { _ = h.stream.DeleteConsumer(context.WithoutCancel(ctx), consumer.CachedInfo().Name) }()
	if consumer.CachedInfo().NumPending == 0 {
		return events, nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, err
		}
		var e Event
		if err := json.Unmarshal(m.Data(), &e); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Subject(), err)
		}
		events = append(events, e)
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		if meta.NumPending == 0 {
			return events, nil
		}
	}
}

// last is the last event of a kind and target; nil: none is known.
func (h *History) last(ctx context.Context, e Event) (*Event, error) {
	m, err := h.stream.GetLastMsgForSubject(ctx, e.subject())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	var last Event
	if err := json.Unmarshal(m.Data, &last); err != nil {
		return nil, fmt.Errorf("history: %s: %w", e.subject(), err)
	}
	return &last, nil
}
