package joiner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"shardcdc/pipeline"
)

// Spill writes bodies of a shard to where there is more room than in memory, one behind the other, and returns where they are. It may
// block while there is no room; see AwaitRoom.
type Spill func(ctx context.Context, shard pipeline.ShardID, bodies [][]byte) (pipeline.Content, error)

// packBytes is how much is put together: as much as a write is worth, and little enough that a fragment which stays in
// doubt keeps not much else on the disk.
const packBytes = 256 << 10

// moveOut takes the bodies of records out of memory. Larger ones get a file each, small ones share one, or a million
// prepared fragments of some hundred bytes would be a million files.
func moveOut(spill func(bodies [][]byte) (pipeline.Content, error), records []pipeline.Record) error {
	var pack []*pipeline.Fragment
	size := 0
	flush := func() error {
		err := moveTogether(spill, pack)
		pack, size = pack[:0], 0
		return err
	}
	for i := range records {
		f := records[i].Fragment
		if f == nil || len(f.Body) == 0 {
			continue
		}
		if size+len(f.Body) > packBytes && size > 0 {
			if err := flush(); err != nil {
				return err
			}
		}
		pack, size = append(pack, f), size+len(f.Body)
	}
	return flush()
}

func moveTogether(spill func(bodies [][]byte) (pipeline.Content, error), fragments []*pipeline.Fragment) error {
	if len(fragments) == 0 {
		return nil
	}
	bodies := make([][]byte, len(fragments))
	for i, f := range fragments {
		bodies[i] = f.Body
	}
	content, err := spill(bodies)
	if err != nil {
		return fmt.Errorf("move fragments out of memory, %s and %d more: %w", fragments[0], len(fragments)-1, err)
	}
	p := &pack{content: content, held: len(fragments)}
	at := int64(0)
	for _, f := range fragments {
		f.Content = &section{pack: p, from: at, size: int64(len(f.Body))}
		at += int64(len(f.Body))
		f.Body = nil
	}
	return nil
}

// bringBack reads what was moved out of memory into it again, if it leaves together with other transactions: who encodes a
// batch needs it whole, and a batch of several is no larger than Next was asked for.
func bringBack(b *pipeline.Batch) error {
	if len(b.Transactions) < 2 {
		return nil
	}
	for _, tx := range b.Transactions {
		for _, f := range tx.Fragments {
			if f.Content == nil {
				continue
			}
			if err := read(f); err != nil {
				return fmt.Errorf("bring fragment %s back into memory: %w", f, err)
			}
		}
	}
	return nil
}

func read(f *pipeline.Fragment) (err error) {
	r, err := f.Content.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	body := make([]byte, f.Content.Size())
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	f.Content.Release()
	f.Body, f.Content = body, nil
	return nil
}

// pack is a content that several fragments share. It goes when the last one lets go.
type pack struct {
	content pipeline.Content

	mu   sync.Mutex
	held int
}

func (p *pack) letGo() {
	p.mu.Lock()
	p.held--
	last := p.held == 0
	p.mu.Unlock()
	if last {
		p.content.Release()
	}
}

// section is one fragment's part of a pack.
type section struct {
	pack       *pack
	from, size int64
	once       sync.Once
}

func (s *section) Size() int64 { return s.size }

func (s *section) Release() { s.once.Do(s.pack.letGo) }

// Open reads from the pack's beginning if that cannot seek.
func (s *section) Open() (io.ReadCloser, error) {
	r, err := s.pack.content.Open()
	if err != nil {
		return nil, err
	}
	if seeker, ok := r.(io.Seeker); ok {
		_, err = seeker.Seek(s.from, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, r, s.from)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("go to byte %d of what was moved out of memory: %w", s.from, err), r.Close())
	}
	return &sectionReader{LimitedReader: io.LimitedReader{R: r, N: s.size}, close: r.Close}, nil
}

type sectionReader struct {
	io.LimitedReader
	close func() error
}

// Read does not take an end that comes too early for the section's.
func (r *sectionReader) Read(p []byte) (int, error) {
	n, err := r.LimitedReader.Read(p)
	if errors.Is(err, io.EOF) && r.N > 0 {
		err = fmt.Errorf("what was moved out of memory lacks %d bytes: %w", r.N, io.ErrUnexpectedEOF)
	}
	return n, err
}

func (r *sectionReader) Close() error { return r.close() }

// release frees what fragments keep outside of memory.
func release(fragments []*pipeline.Fragment) {
	for _, f := range fragments {
		f.Content.Release()
	}
}

// resident says whether there is a body to move out.
func resident(records []pipeline.Record) bool {
	return slices.ContainsFunc(records, func(r pipeline.Record) bool { return r.Fragment != nil && len(r.Fragment.Body) > 0 })
}
