package control_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
)

func startServer(t *testing.T, o *server.Options) string {
	t.Helper()
	return "nats://" + natstest.Start(t, o).Addr().String()
}

// certificate of a server on 127.0.0.1, signed by itself; file holds it.
func certificate(t *testing.T) (c tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// Each refusal says what mends it; only what may come up by itself is waited for.
func TestRefusals(t *testing.T) {
	cert, ca := certificate(t)
	secured := func(o server.Options) *server.Options {
		o.JetStream = true
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: o.TLSConfig.ClientAuth}
		return &o
	}
	withTLS := startServer(t, secured(server.Options{TLSConfig: &tls.Config{}}))
	mutual := startServer(t, secured(server.Options{TLSConfig: &tls.Config{ClientAuth: tls.RequireAnyClientCert}}))
	withUser := startServer(t, &server.Options{Username: "cdc", Password: "swordfish", JetStream: true})
	plain := startServer(t, &server.Options{})
	for name, c := range map[string]struct {
		control.Connection
		want string
		wait bool
	}{
		"nobody listens":      {control.Connection{URL: "nats://127.0.0.1:1"}, "Try: start cdcd all or nats-server -js", true},
		"no such host":        {control.Connection{URL: "nats://nats.invalid:4222"}, "nats.invalid", true},
		"no user":             {control.Connection{URL: withUser}, "Authorization Violation. Try: --nats-creds FILE, or --nats-user", false},
		"wrong password":      {control.Connection{URL: strings.Replace(withUser, "//", "//cdc:guess@", 1)}, "nats://cdc:xxxxx@127.0.0.1", false},
		"unknown authority":   {control.Connection{URL: withTLS}, "Try: --nats-ca FILE", false},
		"server has no TLS":   {control.Connection{URL: plain, CA: ca}, "Try: nats:// instead of tls://", false},
		"certificate missing": {control.Connection{URL: mutual, CA: ca}, "--nats-cert", false},
		"file missing":        {control.Connection{URL: withTLS, CA: "/no/such/file"}, "check the files given by", false},
		"no JetStream":        {control.Connection{URL: plain}, "has no JetStream. Try: start nats-server with -js", false},
	} {
		bus, err := control.Connect(t.Context(), c.Connection)
		if err == nil {
			bus.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || control.MayRecover(err) != c.wait || strings.Contains(err.Error(), "guess") {
			t.Errorf("%s: waits %t, want %t: %v\nwant %q", name, control.MayRecover(err), c.wait, err, c.want)
		}
	}
	bus, err := control.Connect(t.Context(), control.Connection{URL: withTLS, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	bus.Close()
}

// A server that went away between the connection and the first question is waited for like one that was never there.
func TestServerGone(t *testing.T) {
	srv, bus := natstest.Embedded(t)
	gone := make(chan struct{})
	once := sync.OnceFunc(func() { close(gone) })
	bus.NC.SetDisconnectErrHandler(func(*nats.Conn, error) { once() })
	srv.Close()
	<-gone
	if _, err := control.OpenCatalog(t.Context(), bus.JS, 1); err == nil || !control.MayRecover(err) {
		t.Errorf("is not waited for: %v", err)
	}
}

func TestCheckURLs(t *testing.T) {
	for urls, ok := range map[string]bool{
		"nats://h:4222": true, "h:4222,tls://user:p@h2": true, "127.0.0.1": true, "ws://h": true,
		"http://h:4222": false, "": false, "nats://h:port": false, "nats://h,": false, "nats://": false,
	} {
		err := control.CheckURLs(urls)
		if (err == nil) != ok {
			t.Errorf("%q: %v", urls, err)
		}
	}
	if err := control.CheckURLs("nats://me:secret@h:port"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the password is shown: %v", err)
	}
}
