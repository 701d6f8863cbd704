package mysql

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"shardcdc/pipeline/dsn"
)

const dsnExample = "Try: mysql://user@host:3306/database"

// ParseDSN reads mysql://user[:password]@host[:port]/database[?option=value&…] with the password already filled in.
//
//	tls       preferred (default: when the server has it, unverified), true (verified), skip-verify, false
//	tls-ca    file with the certificates of the authorities that may have signed the server's; tls is true then
//	passfile  file with the password, without the line's end
//
// It reads the files. No error shows a password.
func ParseDSN(text string) (*driver.Config, error) { return parse(text, os.ReadFile) }

// CheckDSN is ParseDSN without the files, which may be on another machine.
func CheckDSN(text string) error {
	_, err := parse(text, nil)
	return err
}

func parse(text string, read func(name string) ([]byte, error)) (*driver.Config, error) {
	u, err := url.Parse(text)
	if err != nil { // its text has the DSN in it
		return nil, fmt.Errorf("the DSN %s is no URL. %s", dsn.Redact(text), dsnExample)
	}
	if dsn.KindOf(text) != dsn.MySQL || u.Opaque != "" {
		return nil, fmt.Errorf("the DSN %s does not begin with mysql://. %s", dsn.Redact(text), dsnExample)
	}
	c := driver.NewConfig()
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("the DSN %s: "+format+". "+dsnExample, append([]any{dsn.Redact(text)}, args...)...))
	}
	c.Net, c.User, c.DBName = "tcp", u.User.Username(), strings.TrimPrefix(u.Path, "/")
	c.Passwd, _ = u.User.Password()
	port := u.Port()
	if port == "" {
		port = "3306"
	}
	c.Addr = net.JoinHostPort(u.Hostname(), port)
	if u.Hostname() == "" {
		fault("has no host")
	}
	if c.User == "" {
		fault("has no user")
	}
	if c.DBName == "" || strings.Contains(c.DBName, "/") {
		fault("has no database")
	}
	if u.Fragment != "" {
		fault("has a # in it; write %%23")
	}
	c.TLSConfig = "preferred"
	if err := options(c, u.Query(), read); err != nil {
		fault("%w", err)
	}
	c.MultiStatements, c.InterpolateParams, c.ClientFoundRows, c.AllowNativePasswords = true, true, true, true
	c.MaxAllowedPacket = 0 // the server's
	c.Timeout = 20 * time.Second
	c.Logger = silent{} // what fails is returned as an error
	return c, errors.Join(errs...)
}

// options takes what stands behind the question mark.
func options(c *driver.Config, given url.Values, read func(name string) ([]byte, error)) (err error) {
	for _, key := range sortedKeys(given) {
		value := given.Get(key)
		if len(given[key]) > 1 {
			err = errors.Join(err, fmt.Errorf("the option %q is given twice", key))
		}
		switch key {
		case "tls":
			if !slices.Contains([]string{"preferred", "true", "skip-verify", "false"}, value) {
				err = errors.Join(err, fmt.Errorf("tls is %q, want preferred, true, skip-verify or false", value))
			}
			if c.TLS == nil {
				c.TLSConfig = value
			}
		case "tls-ca":
			if read == nil {
				continue
			}
			pool, failed := authorities(value, read)
			err = errors.Join(err, failed)
			host, _, _ := net.SplitHostPort(c.Addr)
			c.TLS, c.TLSConfig = &tls.Config{RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS12}, ""
		case "passfile":
			if read == nil {
				continue
			}
			b, failed := read(value)
			err = errors.Join(err, wrap("passfile", failed))
			c.Passwd = strings.TrimRight(string(b), "\r\n")
		default:
			err = errors.Join(err, fmt.Errorf("the option %q is not known; there are tls, tls-ca, passfile", key))
		}
	}
	return err
}

func sortedKeys(v url.Values) []string {
	keys := make([]string, 0, len(v))
	for key := range v {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func authorities(file string, read func(name string) ([]byte, error)) (*x509.CertPool, error) {
	pem, err := read(file)
	if err != nil {
		return nil, fmt.Errorf("tls-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls-ca: %s holds no certificate in PEM", file)
	}
	return pool, nil
}

type silent struct{}

func (silent) Print(...any) {}
