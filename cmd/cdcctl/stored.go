package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/archive"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/reading"
)

// stored are the flags that say where a stream is: in NATS, in a copy of a server's store directory, or in an exported file.
type stored struct {
	nats        cli.NATS
	store, file string
}

func (s *stored) add(f *pflag.FlagSet) {
	f.StringVar(&s.store, "store", "", "read the stream from this JetStream store directory, of which a copy is made; no server may run on it")
	f.StringVar(&s.file, "file", "", "read the stream from this file, which cdcctl export wrote; NAME may be left out")
	s.nats.Add(f, cli.DefaultURL)
}

func (s *stored) offline() bool { return s.store != "" || s.file != "" }

// args takes the subscription's name, which an exported file has itself, in front of n more arguments.
func (s *stored) args(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if s.file != "" && len(args) == n {
			return nil
		}
		return cli.Args(1+n)(cmd, args)
	}
}

// storedStream is a subscription with its stream.
type storedStream struct {
	sub    *control.Subscription
	source reading.Source
	bus    *control.Bus // nil: the stream is read from a file or a folder, and nobody can be asked
}

// open opens the stream of a subscription, calls do and closes it. An exported file may be asked for without a name.
func (s *stored) open(cmd *cobra.Command, name string, do func(ctx context.Context, s *storedStream) error) error {
	switch {
	case s.store != "" && s.file != "":
		return cli.Usagef("--store and --file exclude each other")
	case s.file != "":
		return s.openFile(cmd.Context(), name, do)
	case s.store != "":
		return s.openStore(cmd.Context(), name, do)
	}
	return session(cmd, &s.nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
		return openLive(ctx, bus, catalog, name, func(st *storedStream) error {
			st.bus = bus
			return do(ctx, st)
		})
	})
}

func openLive(ctx context.Context, bus *control.Bus, catalog *control.Catalog, name string, do func(*storedStream) error) error {
	e, err := catalog.Get(ctx, name)
	if err != nil {
		return err
	}
	source, err := reading.Live(ctx, bus.JS, e.Name)
	if err != nil {
		return err
	}
	return do(&storedStream{sub: e.Subscription, source: source})
}

func (s *stored) openFile(ctx context.Context, name string, do func(context.Context, *storedStream) error) error {
	f, err := archive.Open(s.file)
	if err != nil {
		return err
	}
	defer f.Close()
	sub := f.Head.Subscription
	if name != "" && name != sub.Name {
		return cli.Usagef("file %s holds subscription %s, not %s. Try: without a name", s.file, sub.Name, name)
	}
	return do(ctx, &storedStream{sub: sub, source: f})
}

func (s *stored) openStore(ctx context.Context, name string, do func(context.Context, *storedStream) error) (err error) {
	if err := control.CheckName("subscription", name); err != nil {
		return err
	}
	store, err := archive.OpenStore(ctx, s.store, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	catalog, err := openCatalog(ctx, store.Bus)
	if err != nil {
		return err
	}
	return openLive(ctx, store.Bus, catalog, name, func(st *storedStream) error { return do(ctx, st) })
}

// firstArg is the first argument where there are more than n, else empty.
func firstArg(args []string, n int) string {
	if len(args) > n {
		return args[0]
	}
	return ""
}
