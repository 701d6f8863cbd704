package merge

import (
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestScenarios runs the scripts in testdata/scenarios. Shards are called a, b, c, …; positions are hexadecimal; times
// count from 2000-01-01 of the shard's own clock, and a CSN is printed as its time and its counter (5s+1).
// The gid of a fragment is its transaction's global id, an underscore and anything: g1_a belongs to g1.
//
//	new shards=3 [skew=1s] [bytes=N]      a Merger on a new stream; the shards are called a, b, c
//	offer a                               records of shard a, one per line:
//	    commit xid=7 at=100 time=1s [rows=1] [origin=x] [decides=g1_a,g1_b]
//	    prepare g1_a xid=8 at=100..120 time=1s [rows=1] [origin=x]
//	    commit-prepared g1_a xid=8 at=130 time=2s
//	    rollback-prepared g1_a xid=8 at=130 time=2s [prepared=120]
//	    keepalive 500                     the stream has reached 500
//	probes                                the probes to be made now
//	probed a 1 clock=5s flushed=700       the answer to one
//	take [bytes=N]                        the next batch and its checkpoint
//	heartbeat                             a batch without transactions
//	durable                               the oldest batch that is not durable becomes so
//	crash [stored]                        a new Merger from the last durable checkpoint; stored: the oldest
//	                                      batch in flight has reached the stream, but its ack was lost
//	resend [a]                            what the shards send again after a crash
//	status, admits
//
// Every row is ten bytes of data.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		var s script
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.run(t, d)
		})
	})
}
