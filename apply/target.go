package apply

import (
	"context"
	"fmt"

	"shardcdc/apply/schedule"
	"shardcdc/pipeline"
)

// Target is a place to replay on.
type Target interface {
	// Open begins a session. It prepares what progress needs (schema and table) if that is absent. Several sessions may be
	// open at a time.
	Open(ctx context.Context) (Session, error)
}

// Lane is a connection on which groups run, one at a time. Its methods are not for concurrent use. After an error of any
// method only Close may be called.
type Lane interface {
	// Apply replays the group's transactions in order and sets the progress to g.To, in one target transaction. Those in
	// g.Skips it leaves out, and writes down in the same target transaction that it did.
	// It returns nil only when that transaction is durable by the target's own rules. An error that is Blocked
	// or Fatal means that it did not happen, and so does any error before g.Turn has returned nil; after any other error it
	// may or may not have: read Progress.
	// A group without transactions sets the progress only.
	Apply(ctx context.Context, g Group) error

	// Close ends the session, undoing what was not committed. It does not wait longer than ctx.
	Close(ctx context.Context)
}

// Session is the lane that an attempt begins with, and what knows the target. Lane may be called at any time, from any
// goroutine.
type Session interface {
	Lane

	// Progress reads how far the target is; the zero Progress when nothing was ever applied. When it has returned, no
	// transaction of an earlier session of this subscription, or of a lane of one, can commit any more, and none holds
	// locks for long.
	Progress(ctx context.Context) (Progress, error)

	// Copies says which tables are being copied, as of the last Progress or Apply.
	Copies() Copies

	// Statements lists the DDL that not every shard has run, oldest first, as of the last Progress or Apply: the oldest
	// hundred at most.
	Statements() []Statement

	// Streams says whether Apply can replay the transaction while its rows still arrive: reading every fragment once,
	// in order. It looks at the head only.
	Streams(tx *pipeline.Transaction) bool

	// Touches adds to keys what the group touches: two groups whose keys do not exclude each other may run at the same
	// time. alone: it has to run on this session, with nothing else on the way, because what it needs, or changes, cannot be
	// told. Then nothing was added. What makes groups meet and is not in the keys costs time (see parallel), never order.
	Touches(ctx context.Context, g *Group, keys []schedule.Key) (_ []schedule.Key, alone bool)

	// Lane opens a further connection, for groups that are not alone. It is fenced together with the session, and closed
	// before it.
	Lane(ctx context.Context) (Lane, error)

	// Held says whether a lane waits, be it by way of others, for a lock that one of others holds.
	Held(ctx context.Context, lane Lane, others []Lane) (bool, error)
}

// Group is work for one target transaction: consecutive units, whole.
type Group struct {
	From, To Progress
	Units    []Unit
	// Skips are transactions to be left out.
	Skips map[pipeline.CSN]Skip
	// Careful is set after a Blocked attempt: an error is to name the very transaction whose fault it is, whatever that
	// takes, because somebody may decide to skip it.
	Careful bool

	// End is set when the rows of the only unit still arrive, and To is not known. It is called once, when all rows were
	// sent to the target and the target took them. What it returns takes the place of To; with an error nothing of the
	// group may be committed.
	End func() (Progress, error)

	// Turn is called once, when everything of the group was sent to the target, which took it, and before the progress
	// changes: it waits until all groups before are committed. With an error nothing of the group may be committed, and its
	// ctx may end many times before the session's does. Nil: it is its turn.
	Turn func(ctx context.Context) error

	Report Report
}

// Report is how a session tells what it does during Apply. Every function is optional and quick, and may be called from
// any goroutine.
type Report struct {
	// Sent says how many rows, and bytes of rows, of the group were sent to the target so far.
	Sent func(rows int, bytes int64)
	// Waiting says what the target is doing that takes it so long; "" when it goes on.
	Waiting func(why string)
}

// Progress is how far a target is in a stream.
type Progress struct {
	StreamID string       // which stream; see StreamInfo.ID
	CSN      pipeline.CSN // of the last transaction applied
	Seq      pipeline.Seq // of the last message dealt with
	Stamp    int64        // when the stream's server stored that message, in ns since 1970; 0: nothing was read yet
}

func (p Progress) String() string { return fmt.Sprintf("csn %s, stream sequence %d", p.CSN, p.Seq) }

// Copies is what a target knows about tables that are copied to it.
type Copies struct {
	// Tables that are being copied, "schema.table" of the source, sorted: rows are missing on the target.
	Tables []string
	// ConsistentFrom is the CSN at which the last copy was complete; 0: none ever was.
	ConsistentFrom pipeline.CSN
}

// Statement is DDL of the shards, of which a target has one effect for all of them.
type Statement struct {
	CSN    pipeline.CSN       // of the first shard's transaction with it
	Text   string             // its beginning
	Here   string             // what became of it on the target
	Shards []pipeline.ShardID // that have not run it, in order
}

// Transactions calls fn with every transaction of the group, in order.
func (g *Group) Transactions(fn func(*pipeline.Transaction) error) error {
	for _, u := range g.Units {
		if err := u.transactions(fn); err != nil {
			return err
		}
	}
	return nil
}
