package control

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"shardcdc/pipeline/pause"
)

// ErrTooLarge says that a job or a ledger is larger than what NATS takes as one message.
var ErrTooLarge = errors.New("it is larger than a message of NATS may be")

const (
	// putAnswerMax is how long the answer to one attempt to write is waited for.
	putAnswerMax = 5 * time.Second
	// putPatience is how long a write is tried again while NATS does not take it: a cluster that elects a leader needs 5 to 8 s.
	putPatience = time.Minute
	putAgain    = 250 * time.Millisecond

	// headersMax is room for what stands beside the value in a message.
	headersMax = 1 << 10
	// packMin is the size of JSON from which on it is stored compressed.
	packMin = 64 << 10

	// writeHeader names one write, so that its writer recognizes it when the answer was lost. Two writers may well write the same
	// value: who takes a copy over writes a ledger once more just to shut out who wrote it before.
	writeHeader = "Cdc-Write"
)

// put writes v if its revision is still the given one, which becomes the new one. While NATS does not take it, or does not
// answer, it tries again. It has to be so much smaller than a message may be as room says.
func (c *Copies) put(ctx context.Context, key string, v any, revision *uint64, room int) error {
	value, err := pack(v)
	if err != nil {
		return err
	}
	if limit := c.js.Conn().MaxPayload() - headersMax - int64(room); int64(len(value)) > limit {
		return fmt.Errorf("write copy %s: %w: %d bytes compressed, %d are the most", key, ErrTooLarge, len(value), limit)
	}
	msg := nats.NewMsg("$KV." + copyBucket + "." + key)
	msg.Data = value
	msg.Header.Set(writeHeader, nuid.Next())
	next, err := c.write(ctx, msg, *revision)
	if err != nil {
		return fmt.Errorf("write copy %s: %w", key, err)
	}
	*revision = next
	return nil
}

// write stores a message behind the revision of its subject, once.
func (c *Copies) write(ctx context.Context, msg *nats.Msg, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, putPatience)
	defer cancel()
	unanswered := false
	for {
		next, err := c.attempt(ctx, msg, revision, unanswered)
		switch {
		case err == nil || errors.Is(err, ErrTaken):
			return next, err
		case !MayRecover(err):
			return 0, err
		}
		unanswered = true
		if pause.For(ctx, putAgain) != nil {
			return 0, err
		}
	}
}

// attempt publishes once; unanswered says that what was published before may be stored.
func (c *Copies) attempt(ctx context.Context, msg *nats.Msg, revision uint64, unanswered bool) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, putAnswerMax)
	defer cancel()
	again := nats.NewMsg(msg.Subject) // the library writes into the headers of what it publishes
	again.Data = msg.Data
	again.Header.Set(writeHeader, msg.Header.Get(writeHeader))
	ack, err := c.js.PublishMsg(ctx, again, jetstream.WithExpectLastSequencePerSubject(revision), jetstream.WithRetryAttempts(0))
	switch {
	case err == nil:
		return ack.Sequence, nil
	case underway(err):
		return 0, &Unreachable{err}
	case !moved(err):
		return 0, err
	case !unanswered:
		return 0, ErrTaken
	}
	last, failed := c.stream.GetLastMsgForSubject(ctx, msg.Subject)
	switch {
	case errors.Is(failed, jetstream.ErrMsgNotFound) || failed == nil && last.Sequence <= revision:
		return 0, &Unreachable{err} // a server answers that is behind the one that refused
	case failed != nil:
		return 0, failed
	case last.Header.Get(writeHeader) != msg.Header.Get(writeHeader):
		return 0, ErrTaken
	}
	return last.Sequence, nil
}

// underway says that the server is still storing another message of this subject, which may be ours.
func underway(err error) bool {
	const wrongLastSequenceUnderway = 10164
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == wrongLastSequenceUnderway
}

// pack is what is stored of v: JSON, compressed if there is much of it.
func pack(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil || len(text) < packMin {
		return text, err
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

// unpack reads what pack stored. JSON does not begin as gzip does.
func unpack(b []byte, v any) error {
	if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err == nil {
			b, err = io.ReadAll(r)
		}
		if err != nil {
			return err
		}
	}
	return json.Unmarshal(b, v)
}
