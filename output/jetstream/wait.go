package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// How long to wait for an answer: four times what the last commit took, within these borders, and twice as
	// long after an answer that did not come. A leader that died does not answer; a slow disk only answers late, and then
	// a second try costs what it sends, never a second copy.
	patienceMin = 2 * time.Second
	patienceMax = 10 * time.Second

	lookFirst = time.Second // for one look at the stream's end
	lookMost  = 5 * time.Second

	retryFirst = 50 * time.Millisecond
	retryMost  = 500 * time.Millisecond
	retryFull  = 2 * time.Second // there is no room: each try sends the whole batch
)

// errCut ends the wait for an answer that cannot come any more.
var errCut = errors.New("the connection to the NATS server was lost")

// whileConnected runs do with a context that ends with the connection, or after limit. The client would wait for the
// answer although the connection that it had to come on is gone.
func (p *Publisher) whileConnected(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s: %w", limit, context.DeadlineExceeded))
	defer cancel()
	ctx, cut := context.WithCancelCause(ctx)
	lost := p.nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-lost:
			cut(errCut)
		case <-ctx.Done():
		}
	}()
	err := errCut
	if p.nc.IsConnected() { // else it was lost before anybody watched
		err = do(ctx)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cut(nil)
	p.nc.RemoveStatusListener(lost)
	<-watched
	return err
}

// answered sets how long to wait next time, after a commit.
func (p *Publisher) answered(took time.Duration) {
	p.patience = min(max(4*took, patienceMin), patienceMax)
}

func (p *Publisher) unanswered() { p.patience = min(2*p.patience, patienceMax) }

// revive leaves a server that has stopped to answer anything: the client would notice after some 15 seconds.
func (p *Publisher) revive(ctx context.Context) {
	err := p.whileConnected(ctx, patienceMin, p.nc.FlushWithContext)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		_ = p.nc.ForceReconnect() // its only error is that the connection is closed, which every publish says
	}
}
