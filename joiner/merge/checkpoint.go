package merge

import "shardcdc/pipeline"

// checkpoint describes the state after everything up to watermark has been taken, and forgets what no later
// checkpoint will need.
func (m *Merger) checkpoint(watermark pipeline.CSN) pipeline.Checkpoint {
	c := pipeline.Checkpoint{Last: m.last, Watermark: watermark, Shards: make([]pipeline.ShardCheckpoint, len(m.shards))}
	for i, s := range m.shards {
		c.Shards[i] = s.checkpoint(watermark)
	}
	return c
}

// checkpoint follows from I5: what is taken lies before the first one-phase commit that is not, but for
// prepared fragments.
func (s *shard) checkpoint(watermark pipeline.CSN) pipeline.ShardCheckpoint {
	for s.untaken.len() > 0 && s.untaken.first().csn <= watermark {
		s.untaken.pop()
	}
	c := pipeline.ShardCheckpoint{Through: s.processed}
	if s.untaken.len() > 0 {
		c.Through = s.untaken.first().before
	}
	keep := s.members[:0]
	for _, mb := range s.members {
		switch {
		case mb.rolledBack:
			continue
		case mb.awaited:
			c.Pending = append(c.Pending, pipeline.PendingPrepare{Start: mb.start, End: mb.end})
		case !mb.done():
			if mb.end <= c.Through {
				c.Pending = append(c.Pending, pipeline.PendingPrepare{Start: mb.start, End: mb.end})
			}
		// An empty transaction may stand here with its PREPARE behind Through: that is sent again, but its decision
		// on another shard may not be, so it has to be known as decided.
		case mb.second == 0 || mb.second > c.Through:
			c.Open = append(c.Open, pipeline.OpenPrepare{XID: mb.xid, GID: mb.gid})
		default:
			continue
		}
		keep = append(keep, mb)
	}
	clear(s.members[len(keep):])
	s.members = keep
	return c
}

// Settled is the position up to which every commit and every second phase of the shard is taken. It says what
// a reader of the stream can expect to see; Safe, by contrast, says what need not be read again.
func (m *Merger) Settled(id pipeline.ShardID) pipeline.LSN {
	s := m.shards[id]
	to := s.processed
	for i := s.untaken.head; i < len(s.untaken.items); i++ {
		if s.untaken.items[i].csn > m.last {
			to = s.untaken.items[i].before
			break
		}
	}
	for _, mb := range s.members {
		if mb.second != 0 && !mb.done() {
			to = min(to, mb.second-1)
		}
	}
	return to
}
