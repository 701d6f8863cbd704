package bank

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"shardcdc/pipeline/pause"
)

// A transfer moves money between accounts; its sides add up to zero.
type transfer struct {
	id    int64
	sides []side // sorted by shard and account, which is the order of locks
}

type side struct {
	account, amount int64
}

// shards that the transfer touches, in rising order.
func (b *Bank) shardsOf(tr *transfer) []int {
	var shards []int
	for _, s := range tr.sides {
		if shard := b.shardOf(s.account); !slices.Contains(shards, shard) {
			shards = append(shards, shard)
		}
	}
	slices.Sort(shards)
	return shards
}

// distribute says what the transfer does on each of its shards.
func (b *Bank) distribute(tr *transfer, kind string) *distributed {
	d := &distributed{gid: b.newGID(kind)}
	for _, shard := range b.shardsOf(tr) {
		d.parts = append(d.parts, part{shard: shard, sql: b.transferSQL(tr, shard)})
	}
	return d
}

// transferSQL is the transfer's part on one shard.
func (b *Bank) transferSQL(tr *transfer, shard int) string {
	var sql strings.Builder
	for i, s := range tr.sides {
		if b.shardOf(s.account) != shard {
			continue
		}
		entry := tr.id*16 + int64(i)
		fmt.Fprintf(&sql, "UPDATE accounts SET balance = balance + (%d), updated = clock_timestamp() WHERE id = %d;\n", s.amount, s.account)
		fmt.Fprintf(&sql, "INSERT INTO history VALUES (%d, %d, %d, 1, %d, %d, '{\"transfer\": %d, \"side\": %d, \"of\": [%d, null, \"\"]}', clock_timestamp());\n",
			entry, tr.id, len(tr.sides), s.account, s.amount, tr.id, i, len(tr.sides))
		fmt.Fprintf(&sql, "INSERT INTO journal VALUES (%d, 'transfer', clock_timestamp());\n", entry)
	}
	return strings.TrimSuffix(sql.String(), ";\n")
}

// Accounts with the highest numbers are kept for Abandon, the lowest ones are wanted by everybody.
const (
	reservedPerShard = 8
	hotAccounts      = 12
	hotPercent       = 15
)

// reserved returns an account of the shard that no teller touches.
func (b *Bank) reserved(shard int) int64 {
	n := int64(len(b.conf.Shards))
	back := b.reserves.Add(1) % reservedPerShard
	last := int64(b.conf.Accounts) - back*n
	for b.shardOf(last) != shard {
		last--
	}
	return last
}

// ReservedFrom is the lowest number of the accounts that only Abandon's transfers touch.
func (b *Bank) ReservedFrom() int64 {
	return int64(b.conf.Accounts-reservedPerShard*len(b.conf.Shards)) + 1
}

// remembered is how many of its transfers and notes a teller knows, to change and delete them.
const remembered = 100

// A teller does one transaction after the other.
type teller struct {
	coordinator
	transfers []*transfer // done by this teller, and not deleted
	notes     []int64
}

func newTeller(b *Bank, number int) *teller {
	return &teller{coordinator: coordinator{bank: b, sessions: b.sessions(), rand: rand.New(rand.NewPCG(b.conf.Seed, uint64(number)+2))}}
}

// run works until ctx ends.
func (t *teller) run(ctx context.Context) error {
	defer closeAll(t.sessions)
	for t.bank.pacer.wait(ctx) {
		err := t.transaction(ctx)
		switch {
		case err == nil:
		case gaveWay(err):
			t.bank.stats.gaveWay.Add(1)
		case broken(err):
			t.bank.stats.broken.Add(1)
			t.bank.conf.Log.Debug("bank: connection", "error", err)
			if pause.For(ctx, 50*time.Millisecond) != nil {
				return nil
			}
		default:
			return err
		}
	}
	return nil
}

// transaction does one of the things that tellers do.
func (t *teller) transaction(ctx context.Context) error {
	switch dice := t.rand.IntN(100); {
	case dice < 40:
		return t.transferAcross(ctx)
	case dice < 70:
		return t.transferWithin(ctx)
	case dice < 94:
		return t.writeNotes(ctx)
	case dice < 98:
		return t.amend(ctx)
	default:
		return t.archive(ctx)
	}
}

// account chooses one of the shard's accounts.
func (t *teller) account(shard int, hot bool) int64 {
	n := len(t.bank.conf.Shards)
	below := t.bank.conf.Accounts - (reservedPerShard+1)*n
	first := hotAccounts
	if hot && t.rand.IntN(100) < hotPercent {
		below, first = hotAccounts, 0
	}
	id := int64(first + t.rand.IntN(max(1, below-first)))
	id += (int64(shard) - id%int64(n) + int64(n)) % int64(n)
	if id == 0 {
		id = int64(n)
	}
	return id
}

// newTransfer is between the shards given, with one account on each, or two if there is one shard only.
func (t *teller) newTransfer(shards []int, hot bool) *transfer {
	tr := &transfer{id: t.bank.transfers.Add(1)}
	if len(shards) == 1 {
		shards = []int{shards[0], shards[0]}
	}
	slices.Sort(shards)
	var sum int64
	for _, shard := range shards {
		account := t.account(shard, hot)
		for slices.ContainsFunc(tr.sides, func(s side) bool { return s.account == account }) {
			account = t.account(shard, false)
		}
		amount := 1 + t.rand.Int64N(100)
		sum += amount
		tr.sides = append(tr.sides, side{account, amount})
	}
	payer := t.rand.IntN(len(tr.sides))
	tr.sides[payer].amount -= sum
	slices.SortStableFunc(tr.sides, func(a, b side) int {
		if by := t.bank.shardOf(a.account) - t.bank.shardOf(b.account); by != 0 {
			return by
		}
		return int(a.account - b.account)
	})
	return tr
}

// transferWithin is a one-phase commit on one shard.
func (t *teller) transferWithin(ctx context.Context) error {
	shard := t.rand.IntN(len(t.sessions))
	tr := t.newTransfer([]int{shard}, true)
	if err := t.onePhase(ctx, shard, t.bank.transferSQL(tr, shard)); err != nil {
		return err
	}
	t.remember(tr)
	return nil
}

func (t *teller) onePhase(ctx context.Context, shard int, sql string) error {
	if _, err := t.sessions[shard].exec(ctx, "BEGIN; "+sql+"; COMMIT"); err != nil {
		return err
	}
	t.bank.stats.transactions.Add(1)
	return nil
}

// transferAcross is a two-phase commit between two or three shards. Some are rolled back, and of some the coordinator dies.
func (t *teller) transferAcross(ctx context.Context) error {
	n := len(t.sessions)
	if n == 1 {
		return t.transferWithin(ctx)
	}
	shards := t.rand.Perm(n)[:2+t.rand.IntN(min(2, n-1))]
	abandon := t.bank.conf.AbandonEvery > 0 && t.rand.IntN(t.bank.conf.AbandonEvery) == 0
	tr := t.newTransfer(shards, !abandon)
	d := t.bank.distribute(tr, "transfer")
	if err := t.prepare(ctx, d); err != nil {
		return err
	}
	if abandon {
		t.abandon(ctx, d)
		return nil
	}
	if t.rand.IntN(100) < 3 {
		t.rollback(ctx, d)
		return nil
	}
	if t.commit(ctx, d) { // Else a side may be invisible yet, and an amendment would miss it.
		t.remember(tr)
	}
	return nil
}

// abandon leaves a prepared transaction: with nothing decided, or in the middle of the second phase.
func (t *teller) abandon(ctx context.Context, d *distributed) {
	left := &InDoubt{bank: t.bank, d: d, commit: t.rand.IntN(4) > 0, due: time.Now().Add(t.bank.conf.InDoubt)}
	t.bank.stats.abandoned.Add(1)
	if left.commit && t.rand.IntN(2) == 0 {
		first := d.parts[t.rand.IntN(len(d.parts))].shard
		if err := left.Decide(ctx, true, first); err != nil {
			t.bank.conf.Log.Debug("bank: second phase is left for later", "error", err)
		}
	}
	t.bank.unsettled.add(left)
}

func (t *teller) remember(tr *transfer) {
	if len(t.transfers) == remembered {
		t.transfers = append(t.transfers[:0], t.transfers[1:]...)
	}
	t.transfers = append(t.transfers, tr)
}

// amend changes every side of an earlier transfer.
func (t *teller) amend(ctx context.Context) error {
	return t.change(ctx, "amend", func(tr *transfer) (string, bool) {
		return fmt.Sprintf("UPDATE history SET version = version + 1, detail = detail || '{\"amended\": true}' WHERE transfer = %d", tr.id), true
	})
}

// archive deletes every side of an earlier transfer.
func (t *teller) archive(ctx context.Context) error {
	return t.change(ctx, "archive", func(tr *transfer) (string, bool) {
		return fmt.Sprintf("DELETE FROM history WHERE transfer = %d", tr.id), false
	})
}

// change runs a statement on every shard of one of the teller's transfers, which keep says to go on remembering.
func (t *teller) change(ctx context.Context, kind string, what func(*transfer) (sql string, keep bool)) error {
	if len(t.transfers) == 0 {
		return t.transferWithin(ctx)
	}
	i := t.rand.IntN(len(t.transfers))
	tr := t.transfers[i]
	sql, keep := what(tr)
	if !keep {
		t.transfers = slices.Delete(t.transfers, i, i+1)
	}
	shards := t.bank.shardsOf(tr)
	if len(shards) == 1 {
		return t.onePhase(ctx, shards[0], sql)
	}
	d := &distributed{gid: t.bank.newGID(kind)}
	for _, shard := range shards {
		d.parts = append(d.parts, part{shard: shard, sql: sql})
	}
	if err := t.prepare(ctx, d); err != nil {
		return err
	}
	t.commit(ctx, d)
	return nil
}
