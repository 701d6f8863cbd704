package dumper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline/pause"
)

// DeprovisionSpec says what to remove from a shard.
type DeprovisionSpec struct {
	DSN         string
	Name        string // the shard's name, for messages
	Slot        string // empty: none
	Publication string // empty: none; one that Provision did not make stays

	madeFor string // the slot in the publication's comment, when it is not Slot
}

// Deprovisioned is what was removed; empty names were not there (any more) or are not ours.
type Deprovisioned struct {
	Slot, Publication string
}

// dropInterval is the time between two attempts to drop a slot whose walsender is on its way out.
const dropInterval = 50 * time.Millisecond

// Deprovision removes the slot, ending our own walsender if it still runs, and the publication that Provision made. What
// is gone already is no error.
func Deprovision(ctx context.Context, spec DeprovisionSpec) (out Deprovisioned, err error) {
	conn, err := dial(ctx, spec.DSN, spec.Slot, false)
	if err != nil {
		return out, named(spec.Name, err)
	}
	defer hangUp(conn)
	if spec.Slot != "" {
		dropped, err := dropSlot(ctx, conn, spec.Slot)
		if err != nil {
			return out, named(spec.Name, err)
		}
		if dropped {
			out.Slot = spec.Slot
		}
	}
	if spec.Publication != "" {
		if spec.madeFor == "" {
			spec.madeFor = spec.Slot
		}
		dropped, err := dropPublication(ctx, conn, spec.Publication, spec.madeFor)
		if err != nil {
			return out, named(spec.Name, err)
		}
		if dropped {
			out.Publication = spec.Publication
		}
	}
	return out, nil
}

// dropSlot drops the slot. A slot in use by somebody else stays, with an error.
func dropSlot(ctx context.Context, conn *pgconn.PgConn, name string) (bool, error) {
	for {
		s, err := readSlot(ctx, conn, name)
		if err != nil || !s.exists {
			return false, err
		}
		if s.active && s.pid != 0 && s.application != applicationName(name) {
			return false, &FatalError{
				What: fmt.Sprintf("slot %q is in use by pid %d (%s)", name, s.pid, application(s.application)),
				Try:  fmt.Sprintf("stop that reader, or SELECT pg_terminate_backend(%d), and run this again", s.pid),
			}
		}
		if s.active && s.pid != 0 {
			if _, err := query(ctx, conn, fmt.Sprintf("SELECT pg_catalog.pg_terminate_backend(%d)", s.pid)); err != nil {
				return false, fmt.Errorf("end our walsender (pid %d): %w", s.pid, err)
			}
		}
		_, err = query(ctx, conn, "SELECT pg_catalog.pg_drop_replication_slot("+literal(name)+")")
		var pg *pgconn.PgError
		switch {
		case err == nil:
			return true, nil
		case !errors.As(err, &pg) || pg.Code != "55006" && pg.Code != "42704": // in use; gone meanwhile
			return false, fmt.Errorf("drop slot %q: %w", name, err)
		}
		if err := pause.For(ctx, dropInterval); err != nil {
			return false, fmt.Errorf("drop slot %q, which is still in use: %w", name, err)
		}
	}
}

// dropPublication drops the publication if its comment says that Provision made it for the slot.
func dropPublication(ctx context.Context, conn *pgconn.PgConn, name, slot string) (bool, error) {
	rows, err := query(ctx, conn, "SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = "+literal(name)+
		" AND pg_catalog.obj_description(oid, 'pg_publication') = "+literal(madeBy(slot)))
	if err != nil {
		return false, fmt.Errorf("look for publication %q: %w", name, err)
	}
	if len(rows) == 0 {
		return false, nil
	}
	if _, err := query(ctx, conn, "DROP PUBLICATION IF EXISTS "+identifier(name)); err != nil {
		return false, fmt.Errorf("drop publication %q: %w", name, err)
	}
	return true, nil
}
