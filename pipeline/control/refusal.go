package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Unreachable is an error of Connect that may go away by itself: nobody listens there yet, or JetStream is not up. The
// others need a person.
type Unreachable struct{ Err error }

func (e *Unreachable) Error() string { return e.Err.Error() }
func (e *Unreachable) Unwrap() error { return e.Err }

// MayRecover says that an error of NATS may go away by itself, as while a cluster elects its leaders.
func MayRecover(err error) bool {
	var unreachable *Unreachable
	var api *jetstream.APIError
	switch {
	case errors.As(err, &unreachable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return true
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrDisconnected):
		return true
	case errors.Is(err, nats.ErrReconnectBufExceeded): // without a connection just now (see Connect)
		return true
	}
	return errors.As(err, &api) && api.Code == 503
}

var schemes = []string{"nats", "tls", "ws", "wss"}

// CheckURLs says whether a list of URLs can be a Connection's.
func CheckURLs(urls string) error {
	for _, text := range strings.Split(urls, ",") {
		text = strings.TrimSpace(text)
		if !strings.Contains(text, "://") {
			text = "nats://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) {
			return fmt.Errorf("%q is no URL of a NATS server. Try: --nats nats://host:4222, several with commas between", redactURLs(text))
		}
	}
	return nil
}

// redactURLs takes passwords out.
func redactURLs(urls string) string {
	all := strings.Split(urls, ",")
	for i, text := range all {
		scheme, rest, ok := strings.Cut(text, "://")
		if !ok {
			scheme, rest = "", text
		} else {
			scheme += "://"
		}
		if at := strings.LastIndex(rest, "@"); at >= 0 {
			user, _, secret := strings.Cut(rest[:at], ":")
			if !secret {
				user = "" // a token
			}
			all[i] = scheme + user + ":xxxxx" + rest[at:]
		}
	}
	return strings.Join(all, ",")
}

// refusal says why there is no connection, and what mends it.
func refusal(urls string, err error) error {
	try := ""
	var files *fs.PathError
	switch {
	case slices.ContainsFunc([]error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired, nats.ErrNkeysNotSupported},
		func(known error) bool { return errors.Is(err, known) }):
		try = "--nats-creds FILE, or --nats-user USER and --nats-password-file FILE, as the server's configuration has them"
	case errors.Is(err, nats.ErrSecureConnWanted):
		try = "nats:// instead of tls:// and no --nats-ca, because this server has no TLS; or switch TLS on there"
	case unknownAuthority(err):
		try = "--nats-ca FILE, with the certificates of the authority that signed the server's"
	case tlsRefused(err):
		try = "check --nats-ca, --nats-cert and --nats-key, and that the server's certificate is for the host name of the URL"
	case errors.As(err, &files), errors.Is(err, nats.ErrNoUserCB):
		try = "check the files given by --nats-creds, --nats-ca, --nats-cert and --nats-key"
	default:
		return &Unreachable{fmt.Errorf("connect to NATS at %s: %w. Try: start cdcd all or nats-server -js, or give --nats URL", redactURLs(urls), err)}
	}
	return fmt.Errorf("connect to NATS at %s: %w. Try: %s", redactURLs(urls), err, try)
}

func unknownAuthority(err error) bool {
	var unknown x509.UnknownAuthorityError
	return errors.As(err, &unknown)
}

// tlsRefused covers both ends: we do not trust the server, or it does not trust us.
func tlsRefused(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		record       tls.RecordHeaderError
		alert        tls.AlertError
	)
	return errors.As(err, &verification) || errors.As(err, &record) || errors.As(err, &alert) ||
		errors.Is(err, nats.ErrSecureConnRequired) || errors.Is(err, nats.ErrClientCertOrRootCAsRequired) ||
		strings.Contains(err.Error(), "tls error") || strings.Contains(err.Error(), "tls: ") || strings.Contains(err.Error(), "x509: ")
}
