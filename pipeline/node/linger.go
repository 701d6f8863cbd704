package node

import (
	"time"

	"shardcdc/pipeline"
)

// A unit of several messages costs the server milliseconds whatever is in it, so few large ones are better than many small. While a
// backlog is read, transactions come in gulps, and the publisher, which takes what is there, would make a unit of the beginning
// of each. So it lingers, but only where nobody can mind: what it published last was older than lingerBehind, so some
// milliseconds more are nothing beside the delay that there is. And it does not linger behind a full unit: then it is the
// publisher that is waited for. A clock that is wrong by more costs lingerTime for each unit that a transaction waits behind, of
// which there are ten at most (merge.Config.Singly).
const (
	lingerTime   = 20 * time.Millisecond
	lingerBehind = time.Second
)

// linger is how long to wait before the unit behind this one is taken. full says that there may be more already.
func linger(b *pipeline.Batch, full bool, now time.Time) time.Duration {
	n := len(b.Transactions)
	if n == 0 || full || now.Sub(b.Transactions[n-1].CommitTime.Time()) < lingerBehind {
		return 0
	}
	return lingerTime
}
