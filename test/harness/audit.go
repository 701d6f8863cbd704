package harness

import (
	"errors"
	"fmt"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// Audit is what a stream holds.
type Audit struct {
	Units, Transactions, Fragments int64
}

// auditor remembers what was read of a stream, so that each audit reads only what is new.
type auditor struct {
	Audit
	seq       pipeline.Seq // up to which it was read
	csn       pipeline.CSN
	fragments map[fragmentID]pipeline.CSN
	gids      map[string]pipeline.CSN
}

func newAuditor() *auditor {
	return &auditor{fragments: map[fragmentID]pipeline.CSN{}, gids: map[string]pipeline.CSN{}}
}

// fragmentID is what no two fragments have in common.
type fragmentID struct {
	shard pipeline.ShardID
	end   pipeline.LSN
}

// Audit reads the stream and checks that CSNs rise without a gap, that no fragment is there twice, and that no
// distributed transaction is there in two pieces.
func (c *Cluster) Audit() Audit {
	c.t.Helper()
	stream := apply.NewStream(c.Bus.JS, c.Sub.Name)
	info, err := stream.Describe(c.Ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	reader, err := stream.Open(c.Ctx, c.audit.seq)
	if err != nil {
		c.t.Fatal(err)
	}
	defer reader.Close()
	for c.audit.seq < info.Last {
		u, err := reader.Next(c.Ctx)
		if err == nil {
			err = c.audit.unit(u, c.Reused)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return c.audit.Audit
}

// unit takes the next unit. One that is too large for memory is read to its end; if it has none, because its writer died, it
// counts for nothing.
func (a *auditor) unit(u apply.Unit, reused map[string]bool) error {
	var abandoned *apply.Abandoned
	if err := u.Finish(); errors.As(err, &abandoned) {
		a.seq = abandoned.Seq
		return nil
	} else if err != nil {
		return err
	}
	a.seq = u.Seq
	if u.Unit == nil {
		return nil
	}
	if err := u.Unit.Follows(a.csn); err != nil {
		return err
	}
	a.csn = u.Unit.Last
	a.Units++
	for _, tx := range u.Unit.Transactions {
		a.Transactions++
		a.Fragments += int64(len(tx.Fragments))
		if err := a.once(tx, reused); err != nil {
			return err
		}
	}
	return nil
}

func (a *auditor) once(tx *pipeline.Transaction, reused map[string]bool) error {
	if before, twice := a.gids[tx.GID]; twice && tx.GID != "" && !reused[tx.GID] {
		return fmt.Errorf("gid %s is in the stream twice: csn %s and %s", tx.GID, before, tx.CSN)
	}
	a.gids[tx.GID] = tx.CSN
	var errs []error
	for _, f := range tx.Fragments {
		id := fragmentID{f.Shard, f.End}
		if before, twice := a.fragments[id]; twice {
			errs = append(errs, fmt.Errorf("fragment %s is in the stream twice: csn %s and %s", f, before, tx.CSN))
		}
		a.fragments[id] = tx.CSN
	}
	return errors.Join(errs...)
}
