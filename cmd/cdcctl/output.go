package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/dsn"
)

// output says how a command writes its result.
type output struct{ form string }

func (o *output) add(f *pflag.FlagSet) {
	f.StringVarP(&o.form, "output", "o", "table", "table for people, json for programs")
}

// json says that programs read; an unknown form is a usage error.
func (o *output) json() (bool, error) {
	switch o.form {
	case "table":
		return false, nil
	case "json":
		return true, nil
	}
	return false, cli.Usagef("output %q is unknown. Try: --output table or --output json", o.form)
}

// writeJSON writes v, indented: the field names are those of package control and stay as they are.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table lines up cells, which are separated by tabs.
func table(w io.Writer, lines ...string) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, l := range lines {
		fmt.Fprintln(tw, l)
	}
	return tw.Flush()
}

func cells(values ...any) string {
	text := make([]string, len(values))
	for i, v := range values {
		if text[i] = fmt.Sprint(v); text[i] == "" {
			text[i] = "-"
		}
	}
	return strings.Join(text, "\t")
}

// session gives a command what it needs of NATS, and closes it.
func session(cmd *cobra.Command, flags *cli.NATS, do func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error) error {
	ctx := cmd.Context()
	bus, err := flags.Connect(ctx, clientName())
	if err != nil {
		return err
	}
	defer bus.Close()
	catalog, err := openCatalog(ctx, bus)
	if err != nil {
		return err
	}
	return do(ctx, bus, catalog)
}

// catalogStream is the stream behind the catalog's bucket.
const catalogStream = "KV_CDC_SUBSCRIPTIONS"

// openCatalog opens the catalog. A cdcctl that was not told of --nats-replicas gives what it makes itself as many as
// the catalog has.
func openCatalog(ctx context.Context, bus *control.Bus) (*control.Catalog, error) {
	s, err := bus.JS.Stream(ctx, catalogStream)
	switch {
	case err == nil:
		bus.Replicas = max(bus.Replicas, s.CachedInfo().Config.Replicas)
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, fmt.Errorf("open the catalog: %w", err)
	}
	return control.OpenCatalog(ctx, bus.JS, bus.Replicas)
}

func clientName() string { return fmt.Sprintf("cdcctl-%d", os.Getpid()) }

// shown is a subscription as it may be printed. A DSN never has a password; this is the second lock on the door.
func shown(s *control.Subscription) *control.Subscription {
	c := *s
	c.Shards = append([]control.Shard(nil), s.Shards...)
	for i := range c.Shards {
		c.Shards[i].DSN = dsn.Redact(c.Shards[i].DSN)
	}
	c.Targets = append([]control.Target(nil), s.Targets...)
	for i := range c.Targets {
		c.Targets[i].DSN = dsn.Redact(c.Targets[i].DSN)
	}
	return &c
}

// byteSize is a flag in bytes: 268435456, 256MiB, 100GB.
type byteSize int64

func (b *byteSize) String() string {
	if *b == 0 {
		return "0"
	}
	return strings.ReplaceAll(humanize.IBytes(uint64(*b)), " ", "")
}

func (b *byteSize) Type() string { return "bytes" }

func (b *byteSize) Set(text string) error {
	v, err := humanize.ParseBytes(text)
	if err != nil || int64(v) < 0 {
		return fmt.Errorf("%q is no size. Try: 268435456, 256MiB or 100GB", text)
	}
	*b = byteSize(v)
	return nil
}

// nameList is a flag of names or patterns, with commas between or repeated. A comma within double quotes belongs to a name.
type nameList []string

func (l *nameList) String() string { return strings.Join(*l, ",") }

func (l *nameList) Type() string { return "list" }

func (l *nameList) Set(text string) error {
	quoted, from := false, 0
	for i := range len(text) {
		switch {
		case text[i] == '"':
			quoted = !quoted
		case text[i] == ',' && !quoted:
			*l = append(*l, strings.TrimSpace(text[from:i]))
			from = i + 1
		}
	}
	*l = append(*l, strings.TrimSpace(text[from:]))
	return nil
}

func bytesText(n int64) string {
	if n < 0 {
		return "-" + humanize.IBytes(uint64(-n))
	}
	return humanize.IBytes(uint64(n))
}

// seconds prints a time span for people.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d.Abs() < 10*time.Second:
		return fmt.Sprintf("%.1fs", s)
	case d.Abs() < 10*time.Minute:
		return d.Round(time.Second).String()
	}
	return d.Round(time.Minute).String()
}
