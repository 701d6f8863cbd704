package mysql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/pause"
)

// Tables are those of our own in the target's database.
var Tables = []string{"cdc_progress", "cdc_skipped", "cdc_copying"}

// names are compared byte by byte, whatever the database's collation; so are those of cdc_copying.
const ownTable = " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin COMMENT="

var makeTablesSQL = []string{
	`CREATE TABLE IF NOT EXISTS cdc_progress (
	subscription VARCHAR(255) NOT NULL PRIMARY KEY,
	stream_id VARCHAR(255) NOT NULL,
	csn BIGINT UNSIGNED NOT NULL,
	stream_seq BIGINT UNSIGNED NOT NULL,
	stream_time BIGINT NOT NULL COMMENT 'When the stream stored message stream_seq, in ns since 1970',
	owner VARCHAR(255) NOT NULL COMMENT 'The attempt of a worker that may write here',
	consistent_from BIGINT UNSIGNED NOT NULL COMMENT 'CSN at which the last copy of tables was complete here; while cdc_copying has rows, another one is not',
	updated DATETIME(6) NOT NULL)` + ownTable + `'How far each subscription is applied; changes together with the data. Do not edit.'`,
	`CREATE TABLE IF NOT EXISTS cdc_skipped (
	id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
	subscription VARCHAR(255) NOT NULL,
	csn BIGINT UNSIGNED NOT NULL,
	reason LONGTEXT NOT NULL,
	skipped_by VARCHAR(255) NOT NULL,
	asked DATETIME(6) NOT NULL,
	changes LONGTEXT NOT NULL,
	passed DATETIME(6) NOT NULL)` + ownTable + `'Transactions that were left out on request, with the changes that are missing here.'`,
	`CREATE TABLE IF NOT EXISTS cdc_copying (
	subscription VARCHAR(255) NOT NULL,
	table_schema VARCHAR(63) NOT NULL,
	table_name VARCHAR(63) NOT NULL,
	job VARCHAR(255) NOT NULL,
	keyed BOOLEAN NOT NULL,
	merge BOOLEAN NOT NULL COMMENT 'The table kept rows from before the copy',
	arrived LONGTEXT NOT NULL COMMENT 'Of a table without a key: the shards whose rows are here',
	PRIMARY KEY (subscription, table_schema, table_name))` + ownTable + `'Tables that are being copied, by their names on the shards: rows are still missing here. Do not edit.'`,
}

// makeTables creates what is absent: a user without the right to create may use what is there.
func (s *session) makeTables(ctx context.Context) error {
	there, err := s.ownTables(ctx)
	if err != nil {
		return classify(fmt.Errorf("look for cdc_progress on the target: %w", err), nil)
	}
	for i, name := range Tables {
		if slices.Contains(there, name) {
			continue
		}
		if _, err := s.exec(ctx, makeTablesSQL[i]); err != nil {
			return classify(fmt.Errorf("create %s on the target: %w", name, err), &apply.Blocked{Try: "GRANT CREATE ON " + s.database + ".* to the user of apply; it goes on by itself"})
		}
	}
	return s.makeRow(ctx)
}

// ownTables are those of Tables that are there.
func (s *session) ownTables(ctx context.Context) (there []string, err error) {
	err = s.query(ctx, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()", func(scan func(...any) error) error {
		var name string
		err := scan(&name)
		if name = strings.ToLower(name); slices.Contains(Tables, name) {
			there = append(there, name)
		}
		return err
	})
	return there, err
}

// makeRow begins a subscription's progress. Copies of an earlier one of this name do not go on. It looks first: an INSERT waits for a
// transaction that changes the row, though it would do nothing.
func (s *session) makeRow(ctx context.Context) error {
	n := 0
	err := s.conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM cdc_progress WHERE subscription = ?", s.cfg.Subscription).Scan(&n)
	if err == nil && n == 0 {
		_, err = s.exec(ctx, "DELETE FROM cdc_copying WHERE subscription = ?", s.cfg.Subscription)
		if err == nil {
			_, err = s.exec(ctx, "INSERT IGNORE INTO cdc_progress (subscription, stream_id, csn, stream_seq, stream_time, owner, consistent_from, updated) VALUES (?, '', 0, 0, 0, '', 0, UTC_TIMESTAMP(6))",
				s.cfg.Subscription)
		}
	}
	return classify(wrap("write cdc_progress on the target", err), &apply.Blocked{Try: "GRANT SELECT, INSERT, UPDATE, DELETE ON " + s.database + ".* to the user of apply; it goes on by itself"})
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Progress is described by apply.Session. It makes this session the row's owner, under the row's lock. So
//
//   - a transaction that has done its compare-and-swap holds the lock: it is over before we read;
//   - one that has not will not find its owner in the row, and cannot commit any more.
//
// The locks that the latter hold on rows of the data end with its session. Every session that works holds a lock of the server
// with a name (GET_LOCK), so who has it can be asked, and ended, without the right to see others.
func (s *session) Progress(ctx context.Context) (p apply.Progress, err error) {
	p, err = s.takeOver(ctx)
	if err != nil {
		return p, classify(wrap("read cdc_progress", err), nil)
	}
	if err := s.alone(ctx); err != nil {
		return p, classify(wrap("end older sessions on the target", err), nil)
	}
	return p, s.readCopies(ctx)
}

// takeOver makes the session the owner, and returns the progress.
func (s *session) takeOver(ctx context.Context) (p apply.Progress, err error) {
	if err := s.lockProgress(ctx); err != nil {
		return p, err
	}
	var owner string
	var csn, seq, consistent uint64
	err = s.conn.QueryRowContext(ctx, "SELECT stream_id, csn, stream_seq, stream_time, consistent_from, owner FROM cdc_progress WHERE subscription = ? FOR UPDATE", s.cfg.Subscription).
		Scan(&p.StreamID, &csn, &seq, &p.Stamp, &consistent, &owner)
	if err != nil {
		return p, fmt.Errorf("the row of subscription %s: %w", s.cfg.Subscription, err)
	}
	p.CSN, p.Seq, s.copies.consistentFrom = pipeline.CSN(csn), pipeline.Seq(seq), pipeline.CSN(consistent)
	// Who was overtaken sees another owner than the last one of its own. It must not take over in turn, again and again.
	if s.target.owned.Load() && owner != "" && !strings.HasPrefix(owner, s.target.name) {
		return p, s.fenced()
	}
	s.owner = s.target.name + "/" + strconv.FormatUint(s.target.owners.Add(1), 10)
	s.target.owned.Store(true)
	if _, err := s.exec(ctx, "UPDATE cdc_progress SET owner = ? WHERE subscription = ?", s.owner, s.cfg.Subscription); err != nil {
		return p, err
	}
	_, err = s.exec(ctx, "COMMIT")
	return p, err
}

// lockProgress begins a transaction that holds the row. Who holds it may be a process that stands still, or is cut off: the server
// would wait for it for hours, so its session is ended after a second.
func (s *session) lockProgress(ctx context.Context) error {
	for began := time.Now(); ; {
		if _, err := s.exec(ctx, "START TRANSACTION"); err != nil {
			return err
		}
		err := s.query(ctx, "SELECT 1 FROM cdc_progress WHERE subscription = ? FOR UPDATE NOWAIT", func(func(...any) error) error { return nil }, s.cfg.Subscription)
		var my *driver.MySQLError
		if !errors.As(err, &my) || my.Number != erLockWait && my.Number != erLockNow || time.Since(began) > s.cfg.LockTimeout {
			return err
		}
		if _, err := s.exec(ctx, "ROLLBACK"); err != nil {
			return err
		}
		if time.Since(began) > time.Second {
			if err := s.evict(ctx); err != nil {
				return err
			}
		}
		if err := pause.For(ctx, lockEvery); err != nil {
			return fmt.Errorf("%w: %w", err, my)
		}
	}
}

// alone takes the lock that every session holds, from another one if need be: whoever opens a session has the lease. Ending a
// session undoes its transaction; a worker that was not frozen after all begins anew, and the progress keeps the two apart.
func (s *session) alone(ctx context.Context) error {
	for began := time.Now(); ; {
		var got int
		if err := s.conn.QueryRowContext(ctx, "SELECT COALESCE(GET_LOCK(?, 0), 0)", s.lock).Scan(&got); err != nil {
			return err
		}
		if got == 1 {
			_, err := s.exec(ctx, "SET SESSION wait_timeout = 86400") // what stands still from here on is evicted
			return err
		}
		if err := s.evict(ctx); err != nil {
			return err
		}
		if time.Since(began) > s.cfg.LockTimeout {
			return fmt.Errorf("another session holds the lock %s and does not end", s.lock)
		}
		if err := pause.For(ctx, lockEvery); err != nil {
			return err
		}
	}
}

// evict ends the session of this subscription that works, if it is another one.
func (s *session) evict(ctx context.Context) error {
	var holder, own int64
	if err := s.conn.QueryRowContext(ctx, "SELECT COALESCE(IS_USED_LOCK(?), 0), CONNECTION_ID()", s.lock).Scan(&holder, &own); err != nil {
		return err
	}
	if holder == 0 || holder == own {
		return nil
	}
	_, err := s.exec(ctx, "KILL "+strconv.FormatInt(holder, 10))
	var my *driver.MySQLError
	if errors.As(err, &my) && my.Number == erUnknownThread {
		return nil
	}
	return err
}

func (s *session) fenced() error {
	return &apply.Fatal{
		Problem: fmt.Sprintf("the progress of subscription %s is no longer what this worker wrote: another worker is ahead", s.cfg.Subscription),
		Try:     fmt.Sprintf("on the target: SELECT IS_USED_LOCK('%s'); SHOW PROCESSLIST; SELECT * FROM cdc_progress; then stop one of them", s.lock),
	}
}

// swap is the compare-and-swap: the row goes on only from where this attempt left it.
func (s *session) swap(ctx context.Context, from, to apply.Progress) error {
	n, err := s.exec(ctx, `UPDATE cdc_progress SET stream_id = ?, csn = ?, stream_seq = ?, stream_time = ?, updated = UTC_TIMESTAMP(6)
		WHERE subscription = ? AND stream_seq = ? AND stream_id = ? AND owner = ?`,
		to.StreamID, uint64(to.CSN), uint64(to.Seq), to.Stamp, s.cfg.Subscription, uint64(from.Seq), from.StreamID, s.owner)
	if err != nil {
		return classify(fmt.Errorf("write cdc_progress: %w", err), nil)
	}
	if n != 1 {
		return s.fenced()
	}
	return nil
}

// commit is the commit point: what InnoDB has logged when the answer comes is applied.
func (s *session) commit(ctx context.Context) error {
	_, err := s.exec(ctx, "COMMIT")
	return wrap("commit", err)
}
