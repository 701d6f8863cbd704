package copying

import (
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
)

// Unkeyed is a table without a key that is being copied.
type Unkeyed struct {
	Table   control.CopyTableName
	Job     string
	Arrived []pipeline.ShardID // whose rows are in the stream
}

// Unkeyed tells a writer that goes on with a stream what the marks of copies before have told its readers. It is asked between Recover
// and Run.
func (e *Engine) Unkeyed() (all []Unkeyed) {
	if e.job == nil || e.job.State != control.CopyPrepared && e.job.State != control.CopyCopying {
		return nil
	}
	for i, name := range e.job.Tables {
		if e.job.Keyed[i] {
			continue
		}
		u := Unkeyed{Table: name, Job: e.job.ID}
		for _, s := range e.shards {
			if p := s.byName[name]; p != nil && p.ledger.Done {
				u.Arrived = append(u.Arrived, s.id)
			}
		}
		all = append(all, u)
	}
	return all
}
