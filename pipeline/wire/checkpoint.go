package wire

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"shardcdc/pipeline"
)

const (
	checkpointVersion = 1

	shardBytesMin   = 3
	pendingBytesMin = 2
	openBytesMin    = 2
)

// AppendCheckpoint appends the checkpoint's encoding:
//
//	version 1 byte | uvarint last | uvarint watermark | uvarint shards, each:
//	    uvarint through
//	    uvarint pending, each: uvarint through less start | uvarint end less start
//	    uvarint open, each: uvarint xid | string gid
//	CRC-32C 4 bytes, of everything before
//
// Differences wrap around, so every checkpoint comes back as it was.
func AppendCheckpoint(dst []byte, c *pipeline.Checkpoint) []byte {
	start := len(dst)
	dst = append(dst, checkpointVersion)
	dst = binary.AppendUvarint(dst, uint64(c.Last))
	dst = binary.AppendUvarint(dst, uint64(c.Watermark))
	dst = binary.AppendUvarint(dst, uint64(len(c.Shards)))
	for i := range c.Shards {
		s := &c.Shards[i]
		dst = binary.AppendUvarint(dst, uint64(s.Through))
		dst = binary.AppendUvarint(dst, uint64(len(s.Pending)))
		for _, p := range s.Pending {
			dst = binary.AppendUvarint(dst, uint64(s.Through-p.Start))
			dst = binary.AppendUvarint(dst, uint64(p.End-p.Start))
		}
		dst = binary.AppendUvarint(dst, uint64(len(s.Open)))
		for _, o := range s.Open {
			dst = binary.AppendUvarint(dst, uint64(o.XID))
			dst = appendString(dst, o.GID)
		}
	}
	return appendChecksum(dst, dst[start:])
}

// DecodeCheckpoint reads what AppendCheckpoint wrote. The result shares no memory with b.
func DecodeCheckpoint(b []byte) (pipeline.Checkpoint, error) {
	c, err := decodeCheckpoint(b)
	if err != nil {
		return pipeline.Checkpoint{}, fmt.Errorf("decode checkpoint: %w", err)
	}
	return c, nil
}

func decodeCheckpoint(b []byte) (c pipeline.Checkpoint, err error) {
	if len(b) == 0 {
		return c, errShort
	}
	if b[0] != checkpointVersion {
		return c, fmt.Errorf("version %d is unknown; this build reads version %d. Try: upgrade this reader to the release of the writing node", b[0], checkpointVersion)
	}
	if len(b) < 1+3+checksumSize {
		return c, fmt.Errorf("%w: %d bytes", errShort, len(b))
	}
	end := len(b) - checksumSize
	if have, want := crc32.Checksum(b[:end], castagnoli), binary.BigEndian.Uint32(b[end:]); have != want {
		return c, fmt.Errorf("damaged: checksum %08x, want %08x", have, want)
	}
	r := reader{b: b[1:end]}
	c.Last = pipeline.CSN(r.uvarint())
	c.Watermark = pipeline.CSN(r.uvarint())
	if n := r.count(shardBytesMin); n > 0 {
		c.Shards = make([]pipeline.ShardCheckpoint, n)
	}
	for i := range c.Shards {
		c.Shards[i] = r.shardCheckpoint()
	}
	if r.err == nil && r.rest() != 0 {
		r.fail(fmt.Errorf("%d bytes too many", r.rest()))
	}
	return c, r.err
}

func (r *reader) shardCheckpoint() (s pipeline.ShardCheckpoint) {
	s.Through = pipeline.LSN(r.uvarint())
	if n := r.count(pendingBytesMin); n > 0 {
		s.Pending = make([]pipeline.PendingPrepare, n)
	}
	for i := range s.Pending {
		start := s.Through - pipeline.LSN(r.uvarint())
		s.Pending[i] = pipeline.PendingPrepare{Start: start, End: start + pipeline.LSN(r.uvarint())}
	}
	if n := r.count(openBytesMin); n > 0 {
		s.Open = make([]pipeline.OpenPrepare, n)
	}
	for i := range s.Open {
		s.Open[i] = pipeline.OpenPrepare{XID: pipeline.XID(r.uint32()), GID: r.string("")}
	}
	return s
}

// CheckpointReference is the value of HeaderCheckpoint when the checkpoint is the payload of messages of their own: the
// stream sequence of the first of them. They are on CheckpointSubject, in the same atomic batch.
func CheckpointReference(at pipeline.Seq) string {
	return referenceMark + strconv.FormatUint(uint64(at), 10)
}

// referenceMark is no character of base64.
const referenceMark = "@"

// parseCheckpointReference reads what CheckpointReference wrote. It says whether the value is a reference at all.
func parseCheckpointReference(value string) (at pipeline.Seq, is bool, err error) {
	text, is := strings.CutPrefix(value, referenceMark)
	if !is {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return 0, true, fmt.Errorf("header %s %q: want %s and a stream sequence", HeaderCheckpoint, value, referenceMark)
	}
	return pipeline.Seq(n), true, nil
}

// CheckpointHeader is the checkpoint as the value of HeaderCheckpoint.
func CheckpointHeader(c *pipeline.Checkpoint) string {
	return base64.StdEncoding.EncodeToString(AppendCheckpoint(nil, c))
}

// ParseCheckpointHeader reads what CheckpointHeader wrote.
func ParseCheckpointHeader(value string) (pipeline.Checkpoint, error) {
	b, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return pipeline.Checkpoint{}, fmt.Errorf("header %s: %w", HeaderCheckpoint, err)
	}
	return DecodeCheckpoint(b)
}

// CheckpointBytesMax bounds a checkpoint that has messages of its own: about a million prepared transactions in doubt.
const CheckpointBytesMax = 32 << 20

// ReadCheckpoint reads a unit's checkpoint from the value of HeaderCheckpoint in its last message. If the checkpoint has
// messages of its own, message is asked for them, one after the other, and returns each one's HeaderPart and data; own is the
// sequence of the first of them, else 0.
func ReadCheckpoint(value string, message func(pipeline.Seq) (part string, data []byte, err error)) (c pipeline.Checkpoint, own pipeline.Seq, err error) {
	own, elsewhere, err := parseCheckpointReference(value)
	if err != nil {
		return c, 0, err
	}
	if !elsewhere {
		c, err = ParseCheckpointHeader(value)
		return c, 0, err
	}
	collector := NewCollector(CheckpointBytesMax)
	for seq := own; ; seq++ {
		part, data, err := message(seq)
		if err != nil {
			return c, own, err
		}
		payload, complete, err := collector.Add(part, data)
		if err != nil {
			return c, own, fmt.Errorf("checkpoint in message %d: %w", seq, err)
		}
		if complete {
			c, err = DecodeCheckpoint(payload)
			return c, own, err
		}
	}
}
