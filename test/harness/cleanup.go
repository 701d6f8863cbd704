package harness

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/program"
)

// revive ends what a test that failed has left of its faults: whoever waits for a server that stands still or is down, as
// the bank's coordinators do, would wait for ever.
func (c *Cluster) revive() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	for _, s := range c.all() {
		var err error
		if s.PID() == 0 {
			err = s.Start(ctx)
		} else {
			err = s.Resume()
		}
		if err != nil {
			c.t.Error(err)
		}
	}
}

// closeTimeout bounds each step of cleaning up.
const closeTimeout = 30 * time.Second

// close ends the test's programs and removes its databases.
func (c *Cluster) close() {
	if c.Bus != nil {
		c.Bus.Close()
	}
	for i := len(c.programs) - 1; i >= 0; i-- {
		if err := c.programs[i].Kill(); err != nil {
			c.t.Error(err)
		}
	}
	var wait sync.WaitGroup
	for _, s := range c.all() {
		wait.Go(func() {
			if err := c.dropDatabase(s); err != nil {
				c.t.Errorf("remove database %s: %v", c.database, err)
			}
		})
	}
	wait.Wait()
}

// tell shows what is known about a test that failed.
func (c *Cluster) tell() {
	if c.t.Failed() {
		c.showStatus()
		c.showLogs()
	}
}

// showStatus tells what everybody says at the end of a test that failed.
func (c *Cluster) showStatus() {
	if c.Bus == nil || c.Sub == nil {
		return
	}
	for _, status := range []func() (any, error){
		func() (any, error) {
			return control.AskCapture(context.Background(), c.Bus.NC, c.Sub.Name)
		},
		func() (any, error) {
			return control.AskApply(context.Background(), c.Bus.NC, c.Sub.Name, TargetName)
		},
	} {
		st, err := status()
		text, _ := json.Marshal(st)
		c.t.Logf("--- status: %s (%v)", text, err)
	}
}

func (c *Cluster) showLogs() {
	shown := map[string]bool{}
	for _, p := range c.programs {
		if !shown[p.Name()] {
			shown[p.Name()] = true
			c.t.Logf("--- the end of the log of %s:\n%s", p.Name(), p.Tail(40))
		}
	}
	for _, s := range c.all() {
		c.t.Logf("--- the end of %s:\n%s", s.LogFile(), program.Tail(s.LogFile(), 10))
	}
}

// dropDatabase removes what a test may have left: prepared transactions, slots, sessions.
func (c *Cluster) dropDatabase(s *throwaway.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.PID() == 0 {
		if err := s.Start(ctx); err != nil {
			return err
		}
	}
	conn, err := pgx.Connect(ctx, s.DSNFor(c.database))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	gids, err := texts(ctx, conn, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
	if err != nil {
		return err
	}
	for _, gid := range gids {
		if _, err := conn.Exec(ctx, "ROLLBACK PREPARED '"+gid+"'"); err != nil {
			return err
		}
	}
	if err := dropSlots(ctx, conn); err != nil {
		return err
	}
	admin, err := pgx.Connect(ctx, s.DSN())
	if err != nil {
		return err
	}
	defer admin.Close(context.Background())
	_, err = admin.Exec(ctx, "DROP DATABASE "+c.database+" WITH (FORCE)")
	return err
}

// dropSlots drops the database's slots; a walsender that has lost its client is ended first.
func dropSlots(ctx context.Context, conn *pgx.Conn) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database() AND active`)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database() AND NOT active`)
		if err != nil {
			return err
		}
		left, err := texts(ctx, conn, "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()")
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func texts(ctx context.Context, conn *pgx.Conn, sql string) ([]string, error) {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
