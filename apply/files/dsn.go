package files

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"shardcdc/pipeline/dsn"
	"shardcdc/pipeline/format"
)

// Options are what the DSN of a folder says.
type Options struct {
	Folder      string
	Format      format.Format // SQL, or JSON by transaction; with defaults
	RotateBytes int64         // see Config
	RotateEvery time.Duration
}

const dsnExample = "Try: file:///var/lib/bank?format=sql"

// ParseDSN reads file:///folder[?option=value&…].
//
//	format          sql (default), json
//	dialect         of sql: postgresql (default), mysql
//	idempotent      of sql: true, false (default)
//	types           of json: true, false (default)
//	fill_unchanged  of json: true, false (default)
//	rotate_bytes    256MiB
//	rotate_every    1h
//
// It does not look at the folder. The error lists everything that is wrong.
func ParseDSN(text string) (Options, error) {
	u, err := url.Parse(text)
	if err != nil || dsn.KindOf(text) != dsn.Files || u.Opaque != "" || u.Host != "" || u.User != nil || u.Fragment != "" {
		return Options{}, fmt.Errorf("the DSN %s is no URL of a folder on the worker's machine. %s", dsn.Redact(text), dsnExample)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Options{}, fmt.Errorf("the DSN %s: its options cannot be read. %s", dsn.Redact(text), dsnExample)
	}
	o := Options{Folder: filepath.Clean(u.Path), RotateBytes: DefaultRotateBytes, RotateEvery: DefaultRotateEvery}
	p := dsnOptions{query: query}
	if u.Path == "" || o.Folder == "/" {
		p.fault("names no folder")
	}
	o.Format.Name = p.text("format", format.SQL)
	switch o.Format.Name {
	case format.SQL:
		o.Format.SQL = format.SQLOptions{Dialect: p.text("dialect", ""), Idempotent: p.yes("idempotent")}
	case format.JSON:
		o.Format.JSON = format.JSONOptions{Types: p.yes("types"), FillUnchanged: p.yes("fill_unchanged")}
	default:
		p.fault("format %q is unknown, want sql or json", o.Format.Name)
	}
	o.RotateBytes = p.bytes("rotate_bytes", o.RotateBytes)
	o.RotateEvery = p.duration("rotate_every", o.RotateEvery)
	p.rest()
	if d := o.Format.SQL.Dialect; d != "" && d != format.PostgreSQL && d != format.MySQL {
		p.fault("dialect %q is unknown, want postgresql or mysql", d)
	}
	if len(p.errs) > 0 {
		return Options{}, fmt.Errorf("the DSN %s %w. %s", dsn.Redact(text), errors.Join(p.errs...), dsnExample)
	}
	o.Format = o.Format.WithDefaults()
	return o, nil
}

// dsnOptions takes options out of a query, and gathers faults.
type dsnOptions struct {
	query url.Values
	errs  []error
}

func (p *dsnOptions) fault(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

func (p *dsnOptions) text(name, fallback string) string {
	values, ok := p.query[name]
	delete(p.query, name)
	if len(values) > 1 {
		p.fault("gives %s twice", name)
	}
	if !ok {
		return fallback
	}
	return values[0]
}

func (p *dsnOptions) yes(name string) bool {
	v, err := strconv.ParseBool(p.text(name, "false"))
	if err != nil {
		p.fault("%s: want true or false", name)
	}
	return v
}

func (p *dsnOptions) bytes(name string, fallback int64) int64 {
	text := p.text(name, "")
	if text == "" {
		return fallback
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > 1<<62 {
		p.fault("%s %q: want a size like 256MiB", name, text)
	}
	return int64(n)
}

func (p *dsnOptions) duration(name string, fallback time.Duration) time.Duration {
	text := p.text(name, "")
	if text == "" {
		return fallback
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		p.fault("%s %q: want a duration like 1h", name, text)
	}
	return d
}

// rest are options that nobody took.
func (p *dsnOptions) rest() {
	var names []string
	for name := range p.query {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) > 0 {
		p.fault("has options that are unknown, or of another format: %s", strings.Join(names, ", "))
	}
}
