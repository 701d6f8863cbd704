// Command natsd is the embedded NATS server as a process of its own, for tests that stop it, continue it and kill it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"shardcdc/pipeline/embedded"
)

func main() {
	dir := flag.String("dir", "", "store")
	listen := flag.String("listen", "127.0.0.1:0", "address")
	flag.Parse()
	if err := run(embedded.Options{StoreDir: *dir, Listen: *listen, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}); err != nil {
		fmt.Fprintln(os.Stderr, "natsd:", err)
		os.Exit(1)
	}
}

func run(o embedded.Options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	srv, err := embedded.Start(ctx, o)
	if err != nil {
		return err
	}
	defer srv.Close()
	<-ctx.Done()
	return nil
}
