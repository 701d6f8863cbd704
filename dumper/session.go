package dumper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sync/errgroup"

	"shardcdc/dumper/pgoutput"
	"shardcdc/pipeline"
	"shardcdc/pipeline/pause"
)

// session is one START_REPLICATION.
type session struct {
	d       *Dumper
	conn    net.Conn
	frames  *frames
	batch   []pipeline.Record
	early   *pipeline.Record   // a PREPARE from before the slot, whose second phase comes next
	sent    pipeline.Timestamp // when the server sent the last message, by its clock
	data    bool               // the last read brought a message
	alive   bool               // it brought a keepalive
	backlog backlog
	whole   bool // transactions come in one piece
}

// blockSQL bounds the blocks of streamed transactions. While the server decodes and sends one, it sends nothing else: with
// the default of 64 MB small transactions would wait for a second or more. A lower setting of the server stays.
const blockSQL = `SELECT pg_catalog.set_config(name, '16MB', false) FROM pg_catalog.pg_settings
WHERE name = 'logical_decoding_work_mem' AND setting::bigint > 16384`

// session connects, verifies and streams until something breaks. worked says that the server accepted the stream.
func (d *Dumper) session(ctx context.Context) (worked bool, err error) {
	d.setState(Connecting)
	pg, err := dial(ctx, d.src.DSN, d.src.Slot, true)
	if err != nil {
		return false, err
	}
	if err := d.verify(ctx, pg); err != nil {
		hangUp(pg)
		return false, err
	}
	whole := time.Now().Before(d.wholeUntil)
	if !whole {
		if _, err := query(ctx, pg, blockSQL); err != nil {
			hangUp(pg)
			return false, fmt.Errorf("limit the blocks of streamed transactions: %w", err)
		}
	}
	asked := time.Now()
	if err := pg.SyncConn(ctx); err != nil {
		hangUp(pg)
		return false, fmt.Errorf("settle the connection: %w", err)
	}
	roundTrip := time.Since(asked)
	hijacked, err := pg.Hijack() // before START_REPLICATION, so that every byte of the stream comes through our buffer
	if err != nil {
		hangUp(pg)
		return false, fmt.Errorf("take the connection over: %w", err)
	}
	d.formerPID = hijacked.PID
	if err := narrow(hijacked.Conn, roundTrip); err != nil {
		hijacked.Conn.Close()
		return false, fmt.Errorf("give the connection a window: %w", err)
	}
	s := &session{d: d, conn: hijacked.Conn, frames: newFrames(d.opts.ReadBytes), whole: whole}
	worked, err = s.run(ctx)
	return worked, d.avoid(s, err)
}

// run owns the connection from here. A broken connection does not end an Offer: what was handed over is handed over.
func (s *session) run(ctx context.Context) (worked bool, err error) {
	group, inner := errgroup.WithContext(ctx)
	closed := make(chan struct{})
	context.AfterFunc(inner, func() { // inner ends at the latest when Wait returns
		defer close(closed)
		s.goodbye()
	})
	defer func() { <-closed }()
	defer s.forget()
	s.d.listen()
	s.d.setRelease(s.goodbye)
	defer s.d.setRelease(nil)
	started := make(chan struct{})
	group.Go(func() error {
		if err := s.start(); err != nil {
			return err
		}
		close(started)
		return s.read(ctx)
	})
	group.Go(func() error {
		select {
		case <-started:
			return s.write(inner)
		case <-inner.Done():
			return inner.Err()
		}
	})
	err = group.Wait()
	select {
	case <-started:
		worked = true
	default:
	}
	return worked, err
}

// goodbye tells the walsender to end, so that the slot is free at once, and closes the connection, which wakes reader
// and writer. Both steps are attempts: the connection may be broken already.
func (s *session) goodbye() {
	if s.conn.SetWriteDeadline(time.Now().Add(closeTimeout/10)) == nil {
		s.conn.Write([]byte{'X', 0, 0, 0, 4})
	}
	s.conn.Close()
}

func (d *Dumper) setRelease(release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.release = release
}

// letGo ends the session, if there is one. A server that shuts down waits until every walsender's client has confirmed
// what was sent; a sink that waits for another shard may not confirm it for long. What is not confirmed comes again.
func (d *Dumper) letGo() {
	d.mu.Lock()
	release := d.release
	d.mu.Unlock()
	if release != nil {
		release()
	}
}

// startTimeout bounds the wait for the answer to START_REPLICATION: the server first waits for the slot.
const startTimeout = 30 * time.Second

// start sends START_REPLICATION, always with our own position: a server that crashed may have moved the slot's back.
func (s *session) start() error {
	src := &s.d.src
	sql := fmt.Sprintf("START_REPLICATION SLOT %s LOGICAL %s (proto_version '3', publication_names %s, messages 'true', two_phase 'on', streaming '%s')",
		identifier(src.Slot), s.d.resume, literal(list(src.Publications, identifier)), onOff(!s.whole))
	if err := s.conn.SetDeadline(time.Now().Add(startTimeout)); err != nil {
		return fmt.Errorf("start replication: %w", err)
	}
	if _, err := s.conn.Write(queryMessage(sql)); err != nil {
		return fmt.Errorf("start replication: %w", err)
	}
	for {
		kind, body, ok, err := s.frames.next()
		if err != nil {
			return fmt.Errorf("start replication: %w", err)
		}
		if !ok {
			if _, err := s.frames.fill(s.conn); err != nil {
				return fmt.Errorf("start replication: %w", err)
			}
			continue
		}
		switch kind {
		case 'W': // CopyBothResponse
			s.d.setState(Streaming)
			return s.conn.SetDeadline(time.Time{})
		case 'N':
			if err := notice(body); err != nil {
				return err
			}
		case 'S': // parameter status
		case 'E':
			return serverError("start replication", body)
		default:
			return protocolf("start replication: unexpected message %q", kind)
		}
	}
}

func serverError(verb string, body []byte) error {
	var msg pgproto3.ErrorResponse
	if err := msg.Decode(body); err != nil {
		return protocolf("%s: an error that cannot be read: %w", verb, err)
	}
	return fmt.Errorf("%s: %w", verb, pgconn.ErrorResponseToPgError(&msg))
}

// notice takes a warning of pgoutput for an error: it tells that changes are left out. From PostgreSQL 18 on, changes
// made while a publication did not exist are skipped with such a warning; older servers end the stream with an error.
// The warning is on the wire before every position that lies behind what was skipped.
func notice(body []byte) error {
	var msg pgproto3.NoticeResponse
	if err := msg.Decode(body); err != nil {
		return protocolf("a notice that cannot be read: %w", err)
	}
	if msg.SeverityUnlocalized != "WARNING" || msg.File != pgoutputFile {
		return nil
	}
	return fmt.Errorf("stream: %w", pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(&msg)))
}

// read takes what each read of the socket delivered as one batch. Records before an error are offered.
func (s *session) read(ctx context.Context) error {
	s.d.hear() // records may have come with the answer to START_REPLICATION
	n := 0     // bytes of the last read
	for {
		err := s.gather(ctx)
		s.note(n)
		if offerErr := s.offer(ctx); offerErr != nil {
			return offerErr
		}
		if err != nil {
			return err
		}
		s.d.listen()
		if d := s.backlog.pauses(n); d > 0 {
			if err := pause.For(ctx, d); err != nil {
				return err
			}
		}
		if n, err = s.frames.fill(s.conn); err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		s.d.hear()
	}
}

// note tells the backlog what a read of n bytes has brought.
func (s *session) note(n int) {
	s.backlog.read(n, s.d.assembler.Held().Inside, s.batch, s.sent)
	if s.alive && !s.data {
		s.backlog.idle()
	}
	s.alive, s.data = false, false
}

// forget lets go of what is half received when the session ends: it comes again whole in the next one.
func (s *session) forget() {
	s.d.assembler.Reset()
	s.d.listen()
}

// gather takes every whole message of the buffer.
func (s *session) gather(ctx context.Context) error {
	for {
		kind, body, ok, err := s.frames.next()
		if err != nil || !ok {
			return err
		}
		switch kind {
		case 'd':
			if err := s.copyData(ctx, body); err != nil {
				return err
			}
		case 'N':
			if err := notice(body); err != nil {
				return err
			}
		case 'S', 'A': // parameter status, notification
		case 'E':
			return serverError("stream", body)
		case 'c', 'C', 'Z': // a server that shuts down ends the stream in good order
			return errEnded
		default:
			return protocolf("unexpected message %q in the stream", kind)
		}
	}
}

func (s *session) copyData(ctx context.Context, body []byte) error {
	switch {
	case len(body) > xlogDataHeader && body[0] == 'w':
		s.data, s.sent = true, pipeline.Timestamp(binary.BigEndian.Uint64(body[17:]))
		return s.xlogData(ctx, pipeline.LSN(binary.BigEndian.Uint64(body[1:])), body[xlogDataHeader:])
	case len(body) > 0 && body[0] == 'k':
		s.alive = true
		return s.keepalive(body)
	case len(body) == 0:
		return protocolf("empty copy data")
	}
	return protocolf("copy data %q of %d bytes", body[0], len(body))
}

// xlogData takes one message of pgoutput. A record has to end after everything that was received before: this is what
// tells a record sent twice or a keepalive that promised too much.
func (s *session) xlogData(ctx context.Context, walStart pipeline.LSN, msg []byte) error {
	rec, ok, err := s.d.assembler.Feed(walStart, msg)
	if err != nil {
		return feedError(err)
	}
	if !ok {
		return nil
	}
	if err := s.confirmKept(ctx, &rec); err != nil {
		release([]pipeline.Record{rec})
		return err
	}
	if s.early != nil || rec.Kind == pipeline.Prepare && rec.End <= s.d.src.Start {
		if rec, ok, err = s.beforeSlot(rec); !ok || err != nil {
			return err
		}
	}
	if rec.End <= s.d.position {
		return protocolf("%s of xid %d gid %q ends at %s, but the stream had come to %s before", rec.Kind, rec.XID, rec.GID, rec.End, s.d.position)
	}
	s.d.position = rec.End
	s.batch = append(s.batch, rec)
	return nil
}

// feedError tells what the server sent from what the disk did not take.
func feedError(err error) error {
	var spill *pgoutput.SpillError
	if errors.As(err, &spill) {
		return err
	}
	return &protocolError{err}
}

// beforeSlot makes one commit of a transaction that was prepared before the slot was made, or while it was, and committed
// behind it: PostgreSQL sends it with its second phase, the PREPARE at its old position (ReorderBufferFinishPrepared, txn->final_lsn <
// two_phase_at). What other shards did in it may lie before their slots altogether, so it is whole only together with a copy
// of the tables.
func (s *session) beforeSlot(rec pipeline.Record) (pipeline.Record, bool, error) {
	early := s.early
	switch {
	case early == nil:
		s.early = &rec
		return rec, false, nil
	case rec.Kind != pipeline.CommitPrepared || rec.GID != early.GID || rec.XID != early.XID:
		release([]pipeline.Record{*early, rec})
		return rec, false, protocolf("%s of xid %d gid %q follows the prepare of xid %d gid %q, which is from before the slot", rec.Kind, rec.XID, rec.GID, early.XID, early.GID)
	}
	s.early = nil
	f := early.Fragment
	f.GID, f.Start, f.End, f.Time = "", rec.Start, rec.End, rec.Time
	return pipeline.Record{Kind: pipeline.Commit, Fragment: f, XID: rec.XID, Start: rec.Start, End: rec.End, Time: rec.Time}, true, nil
}

// keepalive moves the position, but never into a transaction that is sent in one piece and is half received. See
// Assembler.Open for the streamed ones.
func (s *session) keepalive(body []byte) error {
	k, err := parseKeepalive(body)
	if err != nil {
		return err
	}
	if start, open := s.d.assembler.Open(); open {
		k.end = min(k.end, start)
	}
	s.d.position = max(s.d.position, k.end)
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.replies++
	if k.reply {
		// We speak often enough that the server has no cause to ask, unless it shuts down: the prober has a look.
		d.feedback.reply, d.suspicion = true, true
		signal(d.wakeWriter)
		signal(d.wakeProber)
	}
	return nil
}

// offer hands over the batch and the position; only then does the position count as received.
func (s *session) offer(ctx context.Context) error {
	d := s.d
	if len(s.batch) == 0 && d.position == d.received() {
		return nil
	}
	d.mu.Lock()
	d.handed = d.position
	d.mu.Unlock()
	err := d.sink.Offer(ctx, d.src.Shard, s.batch, d.position)
	if err != nil {
		release(s.batch)
		return offerError(ctx, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(s.batch); n > 0 {
		d.resume = s.batch[n-1].End
	}
	d.status.Received = d.position
	clear(s.batch) // or what they point to would stay in memory until the next ones
	s.batch = s.batch[:0]
	return nil
}

// release lets go of records that nobody took.
func release(records []pipeline.Record) {
	for _, rec := range records {
		if rec.Fragment != nil && rec.Fragment.Content != nil {
			rec.Fragment.Content.Release()
		}
	}
}

func offerError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return &FatalError{What: "the records were not taken", Err: err}
}

func (d *Dumper) received() pipeline.LSN {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status.Received
}

// hear notes that the server is alive and the reader is at work: in Offer or in a write to a Spill it may stay for long,
// and the server cannot be called silent.
func (d *Dumper) hear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.heard = time.Now()
	d.busy = d.heard
}

// listen notes that the reader waits for the server from now on, and what is half received.
func (d *Dumper) listen() {
	held := d.assembler.Held()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.heard, d.busy, d.inside = time.Now(), time.Time{}, held.Inside
	d.status.OpenTransactions, d.status.OpenBytes, d.status.OpenSpilled = held.Transactions, held.Bytes, held.Spilled
}

var errSilent = errors.New("the server has said nothing, although asked")
