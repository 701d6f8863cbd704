package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/program"
)

// A site is everything that runs.
type site struct {
	dir    string // logs, and NATS' store
	shards []*throwaway.Server
	target *throwaway.Server
	nats   *embedded.Server
	bus    *control.Bus
	sub    *control.Subscription

	mu          sync.Mutex // the programs change while the guard looks at them
	node, apply *program.Program
	nodes       int
}

func (s *site) databases() []*throwaway.Server {
	return append(append([]*throwaway.Server{}, s.shards...), s.target)
}

func (s *site) shardDSNs() []string {
	var dsns []string
	for _, sh := range s.shards {
		dsns = append(dsns, sh.DSN())
	}
	return dsns
}

func shardName(i int) string { return string(rune('a' + i)) }

// settings: a transaction that gives way to another one is not worth its text in the log.
var settings = map[string]string{"log_min_error_statement": "panic"}

func (s *site) startServers(ctx context.Context, d *demo) error {
	var err error
	if s.dir, err = os.MkdirTemp(d.Dir, "cdc-demo-"); err != nil {
		return err
	}
	began := time.Now()
	var options []throwaway.Options
	for i := range shards {
		options = append(options, throwaway.Options{Name: shardName(i), Dir: d.Dir, Bin: d.PGBin, Settings: settings})
	}
	options = append(options, throwaway.Options{Name: target, Dir: d.Dir, Bin: d.PGBin, Settings: settings})
	servers, err := throwaway.StartMany(ctx, options...)
	if err != nil {
		return err
	}
	s.shards, s.target = servers[:shards], servers[shards]
	var ports []string
	for i, sh := range s.shards {
		ports = append(ports, fmt.Sprintf("shard %s on port %d", shardName(i), sh.Port()))
	}
	d.screen.step("servers", "PostgreSQL %d: %s, target on port %d (%.1fs)", s.target.Version(), strings.Join(ports, ", "), s.target.Port(), time.Since(began).Seconds())
	return nil
}

func (s *site) startNATS(ctx context.Context, d *demo) (err error) {
	s.nats, err = embedded.Start(ctx, embedded.Options{StoreDir: filepath.Join(s.dir, "nats"), Listen: "127.0.0.1:0", Log: d.Log})
	if err != nil {
		return err
	}
	s.bus, err = control.Connect(ctx, control.Connection{Name: "demo", Extra: []nats.Option{s.nats.InProcess()}})
	if err != nil {
		return err
	}
	d.screen.step("stream", "embedded NATS with JetStream at %s, every acknowledgement synced to disk", s.nats.URL())
	return nil
}

func (s *site) subscribe(ctx context.Context, d *demo) (err error) {
	spec := subscribe.Spec{Name: subscription, CopyData: true, Targets: []control.Target{{Name: target, DSN: s.target.DSN()}}}
	for i, sh := range s.shards {
		spec.Shards = append(spec.Shards, subscribe.Shard{Name: shardName(i), DSN: sh.DSN()})
	}
	var notes subscribe.Notes
	s.sub, notes, err = subscribe.Create(ctx, s.bus, spec)
	for _, n := range notes {
		d.Log.Info("create subscription", "note", n.String())
	}
	if err != nil {
		return err
	}
	d.screen.step("subscription", "%s: slot %s and publication %s on every shard", s.sub.Name, s.sub.Shards[0].Slot, strings.Join(s.sub.Shards[0].Publications, ", "))
	return nil
}

func (s *site) startPrograms(d *demo) error {
	if err := s.startNode(d); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	s.apply, err = program.Start(program.Options{
		Name: "apply worker", Path: d.Cdcd, Log: filepath.Join(s.dir, "apply.log"), Env: childEnv,
		Args: []string{"apply", "--nats", s.nats.URL(), "--node-name", "demo-apply", "--spill-dir", s.spillDir()},
	})
	if err != nil {
		return err
	}
	d.screen.step("processes", "cdcd node %d, cdcd apply %d", s.node.PID(), s.apply.PID())
	return nil
}

// spillDir is in the demo's own folder, which goes with it: a process that is killed leaves its files.
func (s *site) spillDir() string { return filepath.Join(s.dir, "spill") }

// childEnv: the user's own configuration is not the demo's.
var childEnv = []string{"CDC_CONFIG="}

// startNode starts a node; each has a log and a name of its own.
func (s *site) startNode(d *demo) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes++
	name := fmt.Sprintf("node-%d", s.nodes)
	p, err := program.Start(program.Options{
		Name: name, Path: d.Cdcd, Log: filepath.Join(s.dir, name+".log"), Env: childEnv,
		Args: []string{"node", "--nats", s.nats.URL(), "--nats-durability", "always", "--node-name", "demo-" + name, "--spill-dir", s.spillDir()},
	})
	if err != nil {
		return err
	}
	s.node = p
	return nil
}

// restartNode kills the node and starts another; it returns the dead one's process id.
func (s *site) restartNode(d *demo) (pid int, err error) {
	s.mu.Lock()
	old := s.node
	s.node = nil // the guard looks away
	s.mu.Unlock()
	if err := old.Kill(); err != nil {
		return 0, err
	}
	return old.PID(), s.startNode(d)
}

// guard ends with an error when a program ends that should run.
func (s *site) guard(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		for _, p := range s.programs() {
			if !p.Running() {
				return p.Err()
			}
		}
	}
}

func (s *site) programs() (running []*program.Program) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range []*program.Program{s.node, s.apply} {
		if p != nil {
			running = append(running, p)
		}
	}
	return running
}

// lastWords are the ends of all logs, which are about to be removed.
func (s *site) lastWords() string {
	if s.dir == "" {
		return ""
	}
	logs, _ := filepath.Glob(filepath.Join(s.dir, "*.log")) // the pattern is good
	for _, server := range s.databases() {
		if server != nil {
			logs = append(logs, server.LogFile())
		}
	}
	var b strings.Builder
	for _, log := range logs {
		fmt.Fprintf(&b, "--- the end of %s\n%s\n", log, program.Tail(log, 8))
	}
	return b.String()
}

// close ends everything, in the order of the data, and removes the folders.
func (s *site) close() error {
	errs := []error{program.StopAll(s.programs()...)}
	if s.bus != nil {
		s.bus.Close()
	}
	if s.nats != nil {
		s.nats.Close()
	}
	for _, server := range s.databases() {
		if server != nil {
			errs = append(errs, server.Close())
		}
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// howToPlay are the lines to paste into another terminal.
func (s *site) howToPlay(cdcd string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nEverything runs on until Ctrl-C. In another terminal:\n\n")
	for i, sh := range s.shards {
		fmt.Fprintf(&b, "  psql '%s'    # shard %s\n", sh.DSN(), shardName(i))
	}
	fmt.Fprintf(&b, "  psql '%s'    # the target\n\n", s.target.DSN())
	cdcctl := filepath.Join(filepath.Dir(cdcd), "cdcctl")
	for _, line := range []string{"status %s", "tail %s --from-csn 0 --count 5", "wait %s --for applied"} {
		fmt.Fprintf(&b, "  %s %s --nats %s\n", cdcctl, fmt.Sprintf(line, subscription), s.nats.URL())
	}
	fmt.Fprintf(&b, "\nLogs: %s\n", s.dir)
	return b.String()
}
