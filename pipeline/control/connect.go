package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Connection says how to reach NATS.
type Connection struct {
	URL       string
	Creds     string // file with a user's JWT and key
	User      string
	Password  string
	Token     string
	CA        string // file of certificates that sign the server's
	Cert, Key string // files of the client's own certificate
	Name      string // shown in the server's list of connections
	Extra     []nats.Option
	// Replicas of everything that is kept: 1, or 3 in a cluster.
	Replicas int
}

// Bus is a connection to NATS with JetStream.
type Bus struct {
	NC       *nats.Conn
	JS       jetstream.JetStream
	Replicas int
}

const connectTimeout = 5 * time.Second

// Connect connects and checks that JetStream is there. An established connection is kept up for ever.
func Connect(ctx context.Context, c Connection) (*Bus, error) {
	opts := append([]nats.Option{
		nats.Name(c.Name),
		nats.Timeout(connectTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectBufSize(-1), // a publish without a connection fails at once; nothing is sent later behind our back
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(3),
	}, c.Extra...)
	if c.Creds != "" {
		opts = append(opts, nats.UserCredentials(c.Creds))
	}
	if c.User != "" {
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	}
	if c.Token != "" {
		opts = append(opts, nats.Token(c.Token))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	nc, err := nats.Connect(c.URL, opts...)
	if err != nil {
		return nil, refusal(c.URL, err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("connect to NATS at %s: %w", redactURLs(c.URL), err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if _, err := js.AccountInfo(ctx); err != nil {
		nc.Close()
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			return nil, fmt.Errorf("NATS at %s has no JetStream. Try: start nats-server with -js", redactURLs(c.URL))
		}
		return nil, &Unreachable{fmt.Errorf("JetStream at %s does not answer: %w. Try: nats server report jetstream; a cluster needs most of its servers", redactURLs(c.URL), err)}
	}
	return &Bus{NC: nc, JS: js, Replicas: max(c.Replicas, 1)}, nil
}

// Close closes the connection.
func (b *Bus) Close() { b.NC.Close() }
