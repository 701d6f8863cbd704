package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/reading"
)

// stored are the flags that say where a stream is.
type stored struct {
	nats        cli.NATS
	store, file string
}

func (s *stored) add(f *pflag.FlagSet) {
	s.nats.Add(f, cli.DefaultURL)
}

func (s *stored) offline() bool { return s.store != "" || s.file != "" }

// args takes the subscription's name, which an exported file has itself.
func (s *stored) args(cmd *cobra.Command, args []string) error {
	if s.file != "" {
		return cli.MaybeName(cmd, args)
	}
	return cli.Args(1)(cmd, args)
}

// storedStream is a subscription with its stream.
type storedStream struct {
	sub    *control.Subscription
	source reading.Source
	bus    *control.Bus // nil: the stream is read from a file or a folder, and nobody can be asked
}

// open opens the stream, calls do and closes it.
func (s *stored) open(cmd *cobra.Command, args []string, do func(ctx context.Context, s *storedStream) error) error {
	return session(cmd, &s.nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
		e, err := catalog.Get(ctx, args[0])
		if err != nil {
			return err
		}
		source, err := reading.Live(ctx, bus.JS, e.Name)
		if err != nil {
			return err
		}
		return do(ctx, &storedStream{sub: e.Subscription, source: source, bus: bus})
	})
}
