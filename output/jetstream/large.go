package jetstream

import (
	"context"
	"fmt"

	"shardcdc/output"
)

// large publishes a payload that is not in memory. It is pulled through parts, which holds one batch at a time.
func (u *unit) large(ctx context.Context, payloads []output.Payload) error {
	if err := u.alone(payloads); err != nil {
		return err
	}
	pl := payloads[0]
	size := pl.Large.Size()
	w := &parts{u: u, ctx: ctx, subject: u.p.subjects.of(pl.Subject), csn: pl.CSN.String(), headers: pl.Headers, left: size, n: int((size + int64(u.p.limit) - 1) / int64(u.p.limit))}
	_, err := pl.Large.WriteTo(w)
	switch {
	case w.err != nil: // of the stream; WriteTo wraps it in what it was about
		return w.err
	case err != nil:
		return err
	case w.left != 0:
		return fmt.Errorf("csn %s: the payload ends %d bytes before its %d", pl.CSN, w.left, size)
	}
	return u.end(ctx, w.batch)
}

func (u *unit) alone(payloads []output.Payload) error {
	if len(payloads) > 1 || !u.single {
		return fmt.Errorf("csn %s is not in memory, and not alone in its batch", payloads[0].CSN)
	}
	return nil
}

// parts cuts what is written into messages, and stores them in batches. The last batch is left to whoever knows that
// nothing follows.
type parts struct {
	u       *unit
	ctx     context.Context // of the publish that writes
	subject string
	csn     string
	headers []output.Header // of the first part

	n, k  int   // parts of the payload; begun so far
	left  int64 // bytes of the payload that have not come
	batch []message
	size  int      // bytes in batch
	free  [][]byte // buffers of batches that are stored
	err   error    // why nothing can be stored any more
}

// Write takes the next bytes of the payload, and returns when they are in a batch that is kept.
func (w *parts) Write(data []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(data)) > w.left {
		w.err = fmt.Errorf("csn %s: the payload is longer than it said", w.csn)
		return 0, w.err
	}
	for rest := data; len(rest) > 0; {
		m, err := w.message()
		if err != nil {
			w.err = err
			return len(data) - len(rest), err
		}
		n := min(len(rest), w.u.p.limit-len(m.data))
		m.data = append(m.data, rest[:n]...)
		w.size += n
		w.left -= int64(n)
		rest = rest[n:]
	}
	return len(data), nil
}

// message is the one with room, in a batch with room.
func (w *parts) message() (*message, error) {
	limit := w.u.p.limit
	if n := len(w.batch); n > 0 {
		if last := &w.batch[n-1]; len(last.data) < limit {
			return last, nil
		}
	}
	if !w.u.p.fits(len(w.batch), w.size, int(min(int64(limit), w.left))) {
		if err := w.u.store(w.ctx, w.batch); err != nil {
			return nil, err
		}
		w.recycle()
	}
	w.k++
	m := part(w.subject, w.buffer(), w.k, w.n)
	m.csn, m.headers = w.csn, w.headers
	w.headers = nil
	w.batch = append(w.batch, m)
	return &w.batch[len(w.batch)-1], nil
}

// recycle begins another batch. What is stored was copied by the client.
func (w *parts) recycle() {
	for _, m := range w.batch {
		w.free = append(w.free, m.data[:0])
	}
	clear(w.batch)
	w.batch, w.size = w.batch[:0], 0
}

func (w *parts) buffer() []byte {
	if n := len(w.free); n > 0 {
		b := w.free[n-1]
		w.free = w.free[:n-1]
		return b
	}
	return make([]byte, 0, min(int64(w.u.p.limit), w.left))
}
