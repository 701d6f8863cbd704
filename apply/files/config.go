package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// Encoder turns transactions into what is in a file. It has one owner.
type Encoder interface {
	// Encode gives the pieces of a batch, in order. Each writes whole transactions, is written at once, and before the next
	// Encode. A transaction that is not in memory is alone in its batch. Errors name the transaction, and would come again. What
	// the encoder remembers of transactions before are tables and copies only.
	Encode(b *pipeline.Batch) ([]io.WriterTo, error)
}

// Config of a Target.
type Config struct {
	// Folder is where the files are. It is made if only it is missing, not the one above.
	Folder       string
	Subscription string
	// Format is written into every index, and is the ending of the files' names: sql, json. A folder has one.
	Format string
	// Choices are those of the format, as text: a folder has one kind of files.
	Choices string
	// Head is what every file begins with.
	Head string
	// Encoder makes one for each file, so that a file is complete in itself. It is told of the copies that have not ended.
	Encoder func([]Copying) Encoder
	// RotateBytes: a file that is as large gets no further transactions; the last group may exceed it. Neither does one whose
	// index has 32 MiB, which is what a start reads. Default 256 MiB.
	RotateBytes int64
	// RotateEvery: a file whose first transaction was written so long ago gets no further ones. Default 1 h.
	RotateEvery time.Duration
	Now         func() time.Time // time.Now

	disk disk // the operating system's
}

// Defaults of a Config.
const (
	DefaultRotateBytes = 256 << 20
	DefaultRotateEvery = time.Hour
)

// indexBytesMax is how long an index may be, some 80,000 commits. A variable for tests.
var indexBytesMax int64 = 32 << 20

// Target is a folder.
type Target struct{ cfg Config }

var _ apply.Target = (*Target)(nil)

// New checks the configuration; it does not look at the folder.
func New(cfg Config) (*Target, error) {
	var errs []error
	if cfg.Folder == "" {
		errs = append(errs, errors.New("folder: is empty"))
	}
	if cfg.Subscription == "" {
		errs = append(errs, errors.New("subscription: is empty"))
	}
	if cfg.Format == "" || cfg.Encoder == nil {
		errs = append(errs, errors.New("format: is missing"))
	}
	if cfg.RotateBytes < 0 || cfg.RotateEvery < 0 {
		errs = append(errs, errors.New("rotate bytes, rotate every: must not be negative"))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("target of %s: %w", cfg.Subscription, errors.Join(errs...))
	}
	if cfg.RotateBytes == 0 {
		cfg.RotateBytes = DefaultRotateBytes
	}
	if cfg.RotateEvery == 0 {
		cfg.RotateEvery = DefaultRotateEvery
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.disk == nil {
		cfg.disk = system{}
	}
	return &Target{cfg: cfg}, nil
}

// Open takes the folder, and recovers it.
func (t *Target) Open(context.Context) (apply.Session, error) {
	s := &session{cfg: &t.cfg}
	if err := s.recover(); err != nil {
		s.release()
		return nil, refused(err)
	}
	return s, nil
}
