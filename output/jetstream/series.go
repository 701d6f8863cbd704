package jetstream

import (
	"context"
	"fmt"
	"slices"

	"shardcdc/output"
)

// series publishes payloads that are made one after the other. One batch of messages is kept, and what is stored is let go.
func (u *unit) series(ctx context.Context, payloads []output.Payload) error {
	if err := u.alone(payloads); err != nil {
		return err
	}
	r := &run{u: u, ctx: ctx}
	err := payloads[0].Series.Each(r.add)
	switch {
	case r.err != nil: // of the stream; Each may have wrapped it
		return r.err
	case err != nil:
		return err
	case !r.ended:
		return fmt.Errorf("csn %s: its payloads have no end", payloads[0].CSN)
	}
	return u.end(ctx, r.batch)
}

// run puts the payloads of one transaction into batches. The last batch is left to whoever knows that nothing follows.
type run struct {
	u   *unit
	ctx context.Context // of the publish that adds

	batch []message
	size  int       // bytes in batch
	data  []byte    // of batch: payloads are good for a moment only
	next  []message // scratch: of a payload
	ended bool      // the transaction is complete
	err   error     // why nothing can be stored any more
}

// add takes the next payload.
func (r *run) add(pl *output.Payload) error {
	if r.err == nil && r.ended {
		r.err = fmt.Errorf("csn %s: a payload follows its last one", pl.CSN)
	}
	if r.err != nil {
		return r.err
	}
	r.ended = pl.Transactions > 0
	r.next = r.u.messages(r.next[:0], pl)
	for _, m := range r.next {
		if !r.u.p.fits(len(r.batch), r.size, len(m.data)) {
			if r.err = r.u.store(r.ctx, r.batch); r.err != nil {
				return r.err
			}
			clear(r.batch)
			r.batch, r.size, r.data = r.batch[:0], 0, r.data[:0]
		}
		r.keep(m)
	}
	return nil
}

// keep adds a message to the batch, with a copy of what it says.
func (r *run) keep(m message) {
	at := len(r.data)
	r.data = append(r.data, m.data...) // if it moves, messages that have their data where it was keep it
	m.data, m.headers = r.data[at:len(r.data):len(r.data)], slices.Clone(m.headers)
	r.batch = append(r.batch, m)
	r.size += len(m.data)
}
