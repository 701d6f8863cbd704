package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// EmbeddedName is the server name of the NATS server that pipeline/embedded runs. It always syncs before it
// acknowledges.
const EmbeddedName = "shardcdc-embedded"

// Messages in an atomic batch: what our own server takes, and what others do unless they were told otherwise.
const (
	EmbeddedBatchMax = 10_000
	batchMax         = 1000
)

// BatchMax is how many messages an atomic batch may have at the server that the bus is connected to.
func (b *Bus) BatchMax() int {
	if b.NC.ConnectedServerName() == EmbeddedName {
		return EmbeddedBatchMax
	}
	return batchMax
}

// Durability is what a server's acknowledgements are worth, as far as it tells.
type Durability struct {
	Known    bool          // only the system account may ask an external server
	Always   bool          // it syncs before it acknowledges
	Interval time.Duration // else it syncs this often
}

const varzTimeout = 500 * time.Millisecond

// Durability asks the server that the bus is connected to.
func (b *Bus) Durability(ctx context.Context) (Durability, error) {
	if b.NC.ConnectedServerName() == EmbeddedName {
		return Durability{Known: true, Always: true}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, varzTimeout)
	defer cancel()
	reply, err := b.NC.RequestWithContext(ctx, "$SYS.REQ.SERVER."+b.NC.ConnectedServerId()+".VARZ", nil)
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrPermissionViolation) {
		return Durability{}, nil
	}
	if err != nil {
		return Durability{}, fmt.Errorf("ask the NATS server for its settings: %w", err)
	}
	var varz struct {
		Data struct {
			JetStream struct {
				Config struct {
					SyncAlways   bool          `json:"sync_always"`
					SyncInterval time.Duration `json:"sync_interval"`
				} `json:"config"`
			} `json:"jetstream"`
		} `json:"data"`
	}
	if err := json.Unmarshal(reply.Data, &varz); err != nil {
		return Durability{}, fmt.Errorf("the NATS server's settings: %w", err)
	}
	c := varz.Data.JetStream.Config
	return Durability{Known: true, Always: c.SyncAlways, Interval: c.SyncInterval}, nil
}
