package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause"
)

// Exit codes.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// UsageError is an error in how a command was called: exit code 2.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// ErrReported ends a command with ExitFailed when what is wrong has been printed already.
var ErrReported = errors.New("reported")

// Main runs a program until it is done or told to stop (SIGINT, SIGTERM), and returns its exit code.
func Main(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return UsageError{helped(err, cmd)} })
	known := flagSets(root)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return Load(cmd, known) }
	err := root.ExecuteContext(ctx)
	var usage UsageError
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, ErrReported):
		return ExitFailed
	case strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(os.Stderr, "%s: %v\n", root.Name(), helped(err, root))
		return ExitUsage
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "%s: %v\n", root.Name(), err)
		return ExitUsage
	default:
		fmt.Fprintf(os.Stderr, "%s: %v\n", root.Name(), err)
		return ExitFailed
	}
}

// helped adds where the right form stands, to errors of cobra that do not say what to do.
func helped(err error, cmd *cobra.Command) error {
	if text := err.Error(); strings.Contains(text, "Try: ") || strings.Contains(text, "Did you mean") {
		return err
	}
	return fmt.Errorf("%w. Try: %s --help", err, cmd.CommandPath())
}

func flagSets(cmd *cobra.Command) []*pflag.FlagSet {
	sets := []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()}
	for _, c := range cmd.Commands() {
		sets = append(sets, flagSets(c)...)
	}
	return sets
}

// Args checks the number of arguments; a wrong one is a usage error that shows the right form.
func Args(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return Usagef("want %d arguments, got %d: %s. Try: %s --help", n, len(args), cmd.UseLine(), cmd.CommandPath())
		}
		return nil
	}
}

// MaybeName takes one argument or none.
func MaybeName(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return Usagef("want one NAME at most, got %d. Try: %s --help", len(args), cmd.CommandPath())
	}
	return nil
}

// Logging are the flags of the log.
type Logging struct{ Level, Format string }

// Add adds the flags.
func (l *Logging) Add(f *pflag.FlagSet) {
	f.StringVar(&l.Level, "log-level", "info", "least important messages to log: debug, info, warn, error")
	f.StringVar(&l.Format, "log-format", "text", "text or json; the log goes to standard error")
}

// Logger makes the log.
func (l *Logging) Logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return nil, Usagef("log level %q is unknown. Try: debug, info, warn or error", l.Level)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch l.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, Usagef("log format %q is unknown. Try: text or json", l.Format)
}

// DefaultURL is where the embedded server listens.
const DefaultURL = "nats://127.0.0.1:4222"

// NATS are the flags of the connection to NATS.
type NATS struct {
	URL, Creds, User, PasswordFile, CA, Cert, Key string
	Replicas                                      int
}

// Add adds the flags.
func (n *NATS) Add(f *pflag.FlagSet, url string) {
	f.StringVar(&n.URL, "nats", url, "URL of the NATS server, or several with commas between")
	f.StringVar(&n.Creds, "nats-creds", "", "file with NATS credentials (JWT and key)")
	f.StringVar(&n.User, "nats-user", "", "NATS user")
	f.StringVar(&n.PasswordFile, "nats-password-file", "", "file with the NATS user's password")
	f.StringVar(&n.CA, "nats-ca", "", "file with the certificates that sign the NATS server's")
	f.StringVar(&n.Cert, "nats-cert", "", "file with the client certificate for NATS")
	f.StringVar(&n.Key, "nats-key", "", "file with the client certificate's key")
	f.IntVar(&n.Replicas, "nats-replicas", 1, "copies of everything in JetStream: 1, or 3 in a cluster")
}

// Connect connects. name is shown in the server's list of connections.
func (n *NATS) Connect(ctx context.Context, name string, extra ...nats.Option) (*control.Bus, error) {
	if err := control.CheckURLs(n.URL); err != nil {
		return nil, UsageError{err}
	}
	c := control.Connection{
		URL: n.URL, Creds: n.Creds, User: n.User, CA: n.CA, Cert: n.Cert, Key: n.Key, Name: name, Extra: extra, Replicas: n.Replicas,
	}
	if n.PasswordFile != "" {
		b, err := os.ReadFile(n.PasswordFile)
		if err != nil {
			return nil, Usagef("NATS password: %w", err)
		}
		c.Password = strings.TrimRight(string(b), "\r\n")
	}
	return control.Connect(ctx, c)
}

const (
	natsRetry = 500 * time.Millisecond
	natsLog   = 5 * time.Second // between two lines that say what is waited for
)

// Await connects and starts something that needs NATS. While NATS may come up by itself, it says in the log that it
// waits, and tries again; what a person has to mend ends it at once.
func Await[T any](ctx context.Context, log *slog.Logger, start func() (T, error)) (T, error) {
	var logged time.Time
	for {
		v, err := start()
		if err == nil || !control.MayRecover(err) || ctx.Err() != nil {
			return v, err
		}
		if time.Since(logged) >= natsLog {
			log.Warn("NATS is not up; waiting for it", "error", err)
			logged = time.Now()
		}
		if err := pause.For(ctx, natsRetry); err != nil {
			return v, err
		}
	}
}
