package node

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
)

// everywhere runs statements on every shard as one distributed transaction.
func (r *rig) everywhere(gid, sql string) {
	r.t.Helper()
	for _, c := range r.shards {
		r.exec(c, "BEGIN; "+sql+"; PREPARE TRANSACTION '"+gid+"'")
	}
	for _, c := range r.shards {
		r.exec(c, "COMMIT PREPARED '"+gid+"'")
	}
}

// Transactions without rows, tables that change between and within transactions, and tables that are made again come
// through a node and a worker that are not started again meanwhile.
func TestShapes(t *testing.T) {
	r := newRig(t, 2)
	r.start("n1")
	for i, c := range r.shards {
		r.exec(c, fmt.Sprintf("INSERT INTO accounts VALUES (%d, 'x', 1)", i))
		r.exec(c, "SELECT pg_logical_emit_message(true, 'app', 'alone')")
	}
	r.everywhere("message", "SELECT pg_logical_emit_message(true, 'app', 'two-phase')")
	r.everywhere("nothing", "SELECT 1")
	r.everywhere("nothing", "SELECT 1") // the same gid again
	r.applied()
	r.want("0 x 1", "1 x 1")

	r.exec(r.target, "ALTER TABLE accounts ALTER COLUMN balance TYPE numeric; ALTER TABLE accounts ADD COLUMN note text")
	r.everywhere("ddl", "UPDATE accounts SET balance = 2; ALTER TABLE accounts ADD COLUMN note text DEFAULT 'd'; UPDATE accounts SET balance = 3;"+
		"ALTER TABLE accounts ALTER COLUMN balance TYPE numeric; UPDATE accounts SET balance = balance + 0.5, owner = owner || note")
	r.applied()
	r.want("0 xd 3.5", "1 xd 3.5")

	r.everywhere("truncate", "TRUNCATE accounts")
	r.applied()
	r.want()

	for i, c := range r.shards {
		r.exec(c, "DROP TABLE accounts; CREATE TABLE accounts (balance bigint, owner text, id bigint PRIMARY KEY)")
		r.exec(c, "ALTER PUBLICATION cdc_bank ADD TABLE accounts")
		r.exec(c, fmt.Sprintf("INSERT INTO accounts VALUES (7, 'z', %d)", i))
	}
	r.applied()
	r.want("0 z 7", "1 z 7")
}

// A transaction in doubt stays so over many nodes while others are published, and comes once, when it is decided.
func TestInDoubtOverManyNodes(t *testing.T) {
	r := newRig(t, 2)
	for i, c := range r.shards {
		r.exec(c, fmt.Sprintf("BEGIN; INSERT INTO accounts VALUES (%d, 'doubt', 1); PREPARE TRANSACTION 'doubt'", i))
	}
	want := []string{"0 doubt 1", "1 doubt 1"}
	for n := range 4 {
		stop := r.start(fmt.Sprint("n", n))
		for k := range 6 {
			id := 10 + 10*n + k
			r.exec(r.shards[k%2], fmt.Sprintf("INSERT INTO accounts VALUES (%d, 'other', 1)", id))
			want = append(want, fmt.Sprintf("%d other 1", id))
		}
		r.applied()
		stop()
	}
	r.want(want[2:]...)
	r.exec(r.shards[1], "COMMIT PREPARED 'doubt'")
	stop := r.start("decided")
	r.applied()
	stop()
	r.want(want...)
	r.exec(r.shards[0], "COMMIT PREPARED 'doubt'") // a second phase alone
	r.start("last")
	r.applied()
	r.want(want...)
}

// Of a prepared transaction that only locked rows which others lock, too, PostgreSQL sends the second phase without the
// PREPARE.
func TestLocksOnly(t *testing.T) {
	r := newRig(t, 2)
	r.start("n1")
	other, err := pgx.Connect(r.ctx, r.shards[0].Config().ConnString())
	r.must(err)
	t.Cleanup(func() { _ = other.Close(context.Background()) })
	r.exec(r.shards[0], "INSERT INTO accounts VALUES (1, 'x', 1)")
	r.exec(other, "BEGIN; SELECT FROM accounts FOR SHARE")
	r.exec(r.shards[0], "BEGIN; SELECT FROM accounts FOR SHARE; PREPARE TRANSACTION 'locks'")
	r.exec(r.shards[1], "BEGIN; INSERT INTO accounts VALUES (2, 'y', 1); PREPARE TRANSACTION 'locks'")
	r.exec(other, "COMMIT")
	r.exec(r.shards[0], "COMMIT PREPARED 'locks'")
	r.exec(r.shards[1], "COMMIT PREPARED 'locks'")
	r.applied()
	r.want("1 x 1", "2 y 1")
}
