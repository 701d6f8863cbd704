package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
	"shardcdc/pipeline/garbage"
	"shardcdc/pipeline/node"
)

// A role is what a child does between its first answer and the end of its input.
type role struct {
	up     Answer
	run    func(ctx context.Context) error                      // nil: nothing runs by itself
	answer map[string]func(ctx context.Context) (Answer, error) // to questions of its own
	close  func()
}

// childMain is main of a child.
func childMain(name string) int {
	garbage.Pace() // as cdcd does
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := serve(name, os.Stdin, os.Stdout, log); err != nil {
		log.Error("child of the benchmark", "role", name, "error", err)
		return 1
	}
	return 0
}

func serve(name string, in io.Reader, out io.Writer, log *slog.Logger) (err error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	questions, answers := json.NewDecoder(in), json.NewEncoder(out)
	var c Config
	if err := questions.Decode(&c); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	r, err := roleOf(ctx, name, c, log)
	if err != nil {
		return errors.Join(err, answers.Encode(Answer{Error: err.Error()}))
	}
	if r.close != nil {
		defer r.close()
	}
	if r.run != nil {
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			cancel(r.run(ctx)) // Its error is the answer to the next question.
		}()
		defer func() {
			cancel(nil)
			<-ran
		}()
	}
	if err := answers.Encode(r.up); err != nil {
		return err
	}
	for {
		var word string
		if err := questions.Decode(&word); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a, err := r.reply(ctx, word)
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

func (r *role) reply(ctx context.Context, word string) (a Answer, err error) {
	if word == "usage" {
		a.Usage, err = ownUsage()
		return a, err
	}
	if answer := r.answer[word]; answer != nil {
		return answer(ctx)
	}
	return a, fmt.Errorf("%q is no question", word)
}

func roleOf(ctx context.Context, name string, c Config, log *slog.Logger) (*role, error) {
	switch name {
	case "nats":
		return natsRole(ctx, c, log)
	case "capture":
		return captureRole(c)
	case "merge":
		return mergeRole(c)
	case "node", "apply":
		return workRole(ctx, name, c, log)
	}
	return nil, fmt.Errorf("role %q is unknown", name)
}

// natsRole is the embedded server, which syncs before it acknowledges.
func natsRole(ctx context.Context, c Config, log *slog.Logger) (*role, error) {
	srv, err := embedded.Start(ctx, embedded.Options{StoreDir: natsDir(c.Dir), Listen: "127.0.0.1:0", Log: log})
	if err != nil {
		return nil, err
	}
	return &role{up: Answer{URL: srv.URL()}, close: srv.Close}, nil
}

// workRole is cdcd node or cdcd apply.
func workRole(ctx context.Context, name string, c Config, log *slog.Logger) (*role, error) {
	bus, err := control.Connect(ctx, control.Connection{URL: c.NATS, Name: c.Name, Replicas: 1})
	if err != nil {
		return nil, err
	}
	r := &role{close: bus.Close}
	if name == "node" {
		n, err := node.New(ctx, bus, node.Config{Name: c.Name, Durability: node.DurableAcks, SpillDir: c.Dir + "/spill-node", Log: log})
		if err != nil {
			return nil, err
		}
		r.run = n.Run
		return r, nil
	}
	w, err := node.NewWorker(ctx, bus, node.WorkerConfig{Name: c.Name, SpillDir: c.Dir + "/spill-apply", ApplyWorkers: c.Workers, Log: log})
	if err != nil {
		return nil, err
	}
	r.run = w.Run
	return r, nil
}
