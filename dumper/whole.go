package dumper

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline"
)

// Streaming of transactions in progress has faults in PostgreSQL that sending them in one piece, after their end, does
// not have. Where one shows, the session is given up, and the next ones do without streaming for a while: nothing is
// lost, since what was half received comes again.
//
//   - The server does not announce that a subtransaction was rolled back (package pgoutput, BUG). So before a streamed
//     transaction is handed on, the state of its subtransactions is looked up.
//   - The server cannot decode a transaction that changes a table's definition after a subtransaction that did so was
//     rolled back ("could not map filenode to relation OID", an internal error; seen on 15 and 17).

// wholeFor is how long sessions that begin do without streaming: longer than the transaction at fault probably takes.
const wholeFor = 10 * time.Minute

// internalError is the SQLSTATE of what the server's programmers did not expect.
const internalError = "XX000"

// errUnannounced says that a streamed transaction holds changes that may have been rolled back.
var errUnannounced = errors.New("the server did not announce that a subtransaction was rolled back")

// avoid turns a fault that streaming may be the cause of into one that passes, for the next session does not stream.
func (d *Dumper) avoid(s *session, err error) error {
	var pg *pgconn.PgError
	internal := errors.As(err, &pg) && pg.Code == internalError
	if s.whole || !internal && !errors.Is(err, errUnannounced) {
		return err
	}
	d.wholeUntil = time.Now().Add(wholeFor)
	return fmt.Errorf("%s; without streaming for %s: %w", err, wholeFor, errWait)
}

// confirmKept looks up the subtransactions of a streamed transaction that has ended. One whose state the server does not
// know any more counts as rolled back. A transaction that was prepared and rolled back since counts as well: it comes
// again in one piece, or as a PREPARE without content.
func (s *session) confirmKept(ctx context.Context, rec *pipeline.Record) error {
	kept := s.d.assembler.Kept()
	if len(kept) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.d.opts.SilenceMax)
	defer cancel()
	conn, err := dial(ctx, s.d.src.DSN, s.d.src.Slot, false)
	if err != nil {
		return fmt.Errorf("look up the subtransactions of xid %d: %w", rec.XID, err)
	}
	defer hangUp(conn)
	row, err := queryRow(ctx, conn, 1, keptSQL(kept))
	if err != nil {
		return fmt.Errorf("look up the subtransactions of xid %d: %w", rec.XID, err)
	}
	if row[0] != "0" {
		return fmt.Errorf("xid %d: %w", rec.XID, errUnannounced)
	}
	return nil
}

// keptSQL counts those of the transactions that were rolled back or are unknown. Their numbers are made 64 bits wide: the
// nearest to the present.
func keptSQL(xids []pipeline.XID) string {
	list := make([]string, len(xids))
	for i, xid := range xids {
		list[i] = strconv.FormatUint(uint64(xid), 10)
	}
	return `SELECT pg_catalog.count(*) FROM pg_catalog.unnest('{` + strings.Join(list, ",") + `}'::bigint[]) AS xid,
  (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS now) AS present,
  LATERAL (SELECT now - (now & 4294967295) + xid AS near) AS n
WHERE coalesce(pg_catalog.pg_xact_status((CASE WHEN near - now > 2147483648 THEN near - 4294967296
  WHEN now - near > 2147483648 THEN near + 4294967296 ELSE near END)::text::xid8), '') NOT IN ('committed', 'in progress')`
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
