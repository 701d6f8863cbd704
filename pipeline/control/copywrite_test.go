package control_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline/control"
)

// faulty is JetStream whose next publications go wrong, each in a way of its own.
type faulty struct {
	jetstream.JetStream
	faults []fault
}

// fault is how a publication goes wrong; before stands for what happens before the answer is lost.
type fault struct {
	err    error
	stored bool
	then   func()
}

func (f *faulty) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if len(f.faults) == 0 {
		return f.JetStream.PublishMsg(ctx, m, opts...)
	}
	now := f.faults[0]
	f.faults = f.faults[1:]
	if now.stored {
		if _, err := f.JetStream.PublishMsg(ctx, m, opts...); err != nil {
			return nil, err
		}
	}
	if now.then != nil {
		now.then()
	}
	return nil, now.err
}

// While NATS elects a leader, writes wait; and one whose answer was lost is known for what it is, unless somebody else has
// written since, be it the very same.
func TestCopiesAreWrittenWithPatience(t *testing.T) {
	ctx, bus := newBus(t)
	js := &faulty{JetStream: bus.JS}
	copies, err := control.OpenCopies(ctx, js, 1)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(err)
	other, err := control.OpenCopies(ctx, bus.JS, 1)
	must(err)
	ledger := &control.CopyTable{Job: "j", Shard: "a", Schema: "public", Name: "t"}
	steal := func() {
		l, err := other.Table(ctx, "bank", "j", "a", 0)
		must(err)
		must(other.PutTable(ctx, "bank", 0, l))
	}
	unavailable := &jetstream.APIError{Code: 503, ErrorCode: 10008}
	for _, tc := range []struct {
		name   string
		faults []fault
		want   error
	}{
		{name: "no fault"},
		{name: "no leader", faults: []fault{{err: jetstream.ErrNoStreamResponse}, {err: unavailable}, {err: nats.ErrReconnectBufExceeded}}},
		{name: "another message is being stored", faults: []fault{{err: &jetstream.APIError{Code: 400, ErrorCode: 10164}}}},
		{name: "answer lost", faults: []fault{{err: nats.ErrTimeout, stored: true}}},
		{name: "answer lost, and no leader", faults: []fault{{err: context.DeadlineExceeded, stored: true}, {err: jetstream.ErrNoStreamResponse}}},
		{name: "answer lost, and others wrote the same", faults: []fault{{err: nats.ErrTimeout, stored: true, then: steal}}, want: control.ErrTaken},
		{name: "not stored, and others wrote the same", faults: []fault{{err: nats.ErrTimeout, then: steal}}, want: control.ErrTaken},
		{name: "refused", faults: []fault{{err: &jetstream.APIError{Code: 400, ErrorCode: 10054}}}, want: &jetstream.APIError{Code: 400, ErrorCode: 10054}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			js.faults = tc.faults
			was := ledger.Revision
			err := copies.PutTable(ctx, "bank", 0, ledger)
			if !errors.Is(err, tc.want) || len(js.faults) > 0 {
				t.Fatalf("%v, want %v", err, tc.want)
			}
			read, err := other.Table(ctx, "bank", "j", "a", 0)
			must(err)
			switch {
			case tc.want == nil && (ledger.Revision <= was || !reflect.DeepEqual(read, ledger)):
				t.Errorf("%+v is stored, %+v was written behind revision %d", read, ledger, was)
			case tc.want != nil && ledger.Revision != was:
				t.Errorf("revision %d, was %d", ledger.Revision, was)
			}
			ledger.Revision = read.Revision
		})
	}
}

// A job of very many tables is stored compressed; one that is too large even so is refused before it is sent.
func TestCopiesOfManyTables(t *testing.T) {
	ctx, bus := newBus(t)
	copies, err := control.OpenCopies(ctx, bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	job := control.NewCopyJob(control.CopyInitial, nil, "merge", "me@here")
	for i := range 70_000 {
		job.Tables = append(job.Tables, control.CopyTableName{Schema: "public", Name: fmt.Sprintf("orders_of_customer_%d", i)})
		job.Keyed = append(job.Keyed, i%3 > 0)
	}
	if err := copies.PutJob(ctx, "bank", job); err != nil {
		t.Fatal(err)
	}
	read, err := copies.Job(ctx, "bank", job.ID)
	if err != nil || !reflect.DeepEqual(read, job) {
		t.Fatalf("%d tables were written, %d read, %v", len(job.Tables), len(read.Tables), err)
	}
	source := rand.New(rand.NewPCG(1, 1))
	for i := range job.Tables { // nothing to compress
		job.Tables[i].Name = fmt.Sprintf("%x%x%x%x", source.Uint64(), source.Uint64(), source.Uint64(), source.Uint64())
	}
	was := job.Revision
	if err := copies.PutJob(ctx, "bank", job); !errors.Is(err, control.ErrTooLarge) || job.Revision != was {
		t.Fatalf("%v, revision %d, was %d", err, job.Revision, was)
	}
}
