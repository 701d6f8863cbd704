// Command natsd is the embedded NATS server as a process of its own, for tests that stop it, continue it and kill it. With
// -cluster it is one server of a cluster instead, with the same durability.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"shardcdc/pipeline/embedded"
)

func main() {
	dir := flag.String("dir", "", "store")
	listen := flag.String("listen", "127.0.0.1:0", "address")
	name := flag.String("name", "", "server's name in the cluster")
	cluster := flag.String("cluster", "", "address for the cluster's other servers")
	routes := flag.String("routes", "", "URLs of all servers' cluster addresses, separated by commas")
	flag.Parse()
	var err error
	if *cluster == "" {
		err = run(embedded.Options{StoreDir: *dir, Listen: *listen, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	} else {
		err = runPeer(*name, *dir, *listen, *cluster, *routes)
	}
	if err != nil {
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

func runPeer(name, dir, listen, cluster, routes string) error {
	opts := &server.Options{
		ServerName: name, JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true,
		JetStreamMaxStore: 1 << 30, JetStreamMaxMemory: 64 << 20,
		Routes: server.RoutesFromStr(routes),
	}
	opts.Cluster.Name = "test"
	opts.Cluster.NoAdvertise = true // clients come through proxies, or know all servers
	var err error
	if opts.Host, opts.Port, err = split(listen); err != nil {
		return err
	}
	if opts.Cluster.Host, opts.Cluster.Port, err = split(cluster); err != nil {
		return err
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	srv.ConfigureLogger()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go srv.Start()
	defer srv.WaitForShutdown()
	defer srv.Shutdown()
	if !srv.ReadyForConnections(30 * time.Second) {
		return errors.New("not ready after 30 s")
	}
	<-ctx.Done()
	return nil
}

func split(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(text)
	return host, port, err
}
