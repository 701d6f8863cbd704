package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

const (
	indexEnding  = ".index"
	heartbeats   = "progress.json"
	unfinished   = ".new" // of a file that is written before it is renamed
	checkedBytes = 64 << 20
)

// ours are the names of indexes: a CSN with zeros in front, so that they sort.
var ours = regexp.MustCompile(`^[0-9]{20}\.index$`)

func nameOf(after pipeline.CSN) string { return fmt.Sprintf("%020d", uint64(after)) }

func (s *session) path(name string) string { return filepath.Join(s.cfg.Folder, name) }

// recover takes the folder and brings it to its last commit: see the package doc.
func (s *session) recover() (err error) {
	if s.lock, err = s.cfg.disk.lock(s.cfg.Folder); err != nil {
		return fmt.Errorf("take the folder %s: %w", s.cfg.Folder, err)
	}
	names, err := s.cfg.disk.list(s.cfg.Folder)
	if err != nil {
		return fmt.Errorf("read the folder %s: %w", s.cfg.Folder, err)
	}
	newest := ""
	for _, name := range names {
		if ours.MatchString(name) {
			newest = strings.TrimSuffix(name, indexEnding)
		}
	}
	if newest != "" {
		if err := s.reopen(newest); err != nil {
			return err
		}
	}
	if err := s.cfg.disk.syncFolder(s.cfg.Folder); err != nil { // a rename may have been the last thing that was done
		return fmt.Errorf("sync the folder %s: %w", s.cfg.Folder, err)
	}
	return s.readHeartbeat(names)
}

// reopen opens a file and its index, and cuts off what was not committed.
func (s *session) reopen(name string) error {
	index, err := s.cfg.disk.open(s.path(name + indexEnding))
	if err != nil {
		return fmt.Errorf("open the index: %w", err)
	}
	s.index = index
	x, err := readIndex(io.NewSectionReader(index, 0, 1<<62))
	if err != nil {
		return fmt.Errorf("read %s: %w", s.path(name+indexEnding), err)
	}
	if h := &x.head; h.Subscription != s.cfg.Subscription || h.Format != s.cfg.Format || h.Choices != s.cfg.Choices {
		return &apply.Fatal{
			Problem: fmt.Sprintf("the folder %s holds files of subscription %s in the format %s (%s), not of %s in %s (%s)",
				s.cfg.Folder, h.Subscription, h.Format, h.Choices, s.cfg.Subscription, s.cfg.Format, s.cfg.Choices),
			Try: "give every subscription and format a folder of its own",
		}
	}
	if err := s.believe(&x); err != nil {
		return fmt.Errorf("recover %s: %w", s.path(name+indexEnding), err)
	}
	data, err := s.cfg.disk.open(s.path(name + "." + s.cfg.Format))
	if errors.Is(err, fs.ErrNotExist) {
		return damaged("%s is gone, and its index is there", s.path(name+"."+s.cfg.Format))
	}
	if err != nil {
		return fmt.Errorf("open the file of the last transactions: %w", err)
	}
	s.data = data
	if err := s.cut(&x); err != nil {
		return fmt.Errorf("recover %s: %w", s.path(name+"."+s.cfg.Format), err)
	}
	s.name, s.written, s.opened, s.state = name, x.written, x.opened, x.state
	return nil
}

// believe makes durable what the index says: its last line may have been read from memory, and have failed to reach the disk.
func (s *session) believe(x *read) error {
	if _, err := s.index.WriteAt(x.last, x.written-int64(len(x.last))); err != nil {
		return err
	}
	if err := s.index.Truncate(x.written); err != nil {
		return err
	}
	return s.index.Sync()
}

// cut cuts off what is behind the last commit, and looks that what is before it is there.
func (s *session) cut(x *read) error {
	size, err := s.data.size()
	if err != nil {
		return err
	}
	if size < x.state.end {
		return damaged("it has %d bytes, its index says %d", size, x.state.end)
	}
	if e := &x.entry; e.Length <= checkedBytes {
		b := make([]byte, e.Length)
		if _, err := s.data.ReadAt(b, e.Offset); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if sum := checksum(0).add(b); sum != e.CRC {
			return damaged("the %d bytes at offset %d have the checksum %08x, its index says %08x", e.Length, e.Offset, uint32(sum), uint32(e.CRC))
		}
	}
	if err := s.data.Truncate(x.state.end); err != nil {
		return err
	}
	return s.data.Sync()
}

// readHeartbeat takes the progress that moved without transactions, if it is of this index.
func (s *session) readHeartbeat(names []string) error {
	for _, name := range names {
		if name != heartbeats {
			continue
		}
		f, err := s.cfg.disk.open(s.path(name))
		if err != nil {
			return fmt.Errorf("open the progress: %w", err)
		}
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<62))
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("read the progress: %w", err)
		}
		var h heartbeat
		if err := parseLine(b, &h); err != nil {
			return damaged("%s: %w", heartbeats, err)
		}
		if h.Index == s.name && h.Bytes == s.written && h.Position.Seq > s.state.progress.Seq {
			s.state.progress = h.Position.progress()
		}
	}
	return nil
}
