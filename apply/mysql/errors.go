package mysql

import (
	"errors"

	driver "github.com/go-sql-driver/mysql"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// classify makes an error of the target Blocked, unless it is one that passes by itself: the server or the connection is in
// trouble, or another session was in the way. Those are returned as they are. at, if not nil, says what was being done.
func classify(err error, at *apply.Blocked) error {
	var my *driver.MySQLError
	if err == nil || !errors.As(err, &my) || passes(my.Number) {
		return err
	}
	blocked := &apply.Blocked{}
	if at != nil {
		*blocked = *at
	}
	blocked.Err = err
	if blocked.Try == "" {
		blocked.Try = advice(my.Number)
	}
	return blocked
}

// Numbers of errors; see "Server Error Message Reference" of MySQL and "MariaDB Error Codes".
const (
	erDuplicate     = 1062
	erLockWait      = 1205
	erLockNow       = 3572 // NOWAIT, of MySQL
	erNoTable       = 1146
	erUnknownThread = 1094
)

// passes: what goes away by itself.
func passes(number uint16) bool {
	switch number {
	case 1021, // the disk is full
		1037, 1041, // out of memory
		1040, 1203, // too many connections
		1053,                         // the server shuts down
		1152, 1158, 1159, 1160, 1161, // the connection
		erLockWait, erLockNow,
		1213,       // deadlock
		1290, 1836, // read only: a replica, until it is promoted
		1317,       // interrupted
		1927, 3169, // the connection was killed
		1969, 3024, // a time limit
		3100: // group replication
		return true
	}
	return false
}

// advice by kind of error.
func advice(number uint16) string {
	switch number {
	case erDuplicate, 1586:
		return "find out who else writes to this table, and whether its collation calls different keys equal; DELETE the row that is in the way, and it goes on by itself"
	case 1044, 1045, 1142, 1143, 1227, 1370:
		return "correct the target's user or password, or GRANT it the right that is missing; it goes on by itself"
	case 1264, 1265, 1366, 1406, 1292, 1441, 3140:
		return "make the target's column as wide as the source's (ALTER TABLE … MODIFY …); it goes on by itself"
	case 1049, erNoTable, 1054, 1364, 1048:
		return "make the target's table fit the source's (ALTER TABLE); it goes on by itself"
	case 1451, 1452, 3819, 4025:
		return "drop or correct the constraint on the target; it goes on by itself"
	case 1665:
		return "set binlog_format = ROW or MIXED on the target; it goes on by itself"
	}
	return "mend it on the target; it goes on by itself"
}

// at puts the CSN into an error that does not know it.
func at(csn pipeline.CSN, err error) error {
	var blocked *apply.Blocked
	if errors.As(err, &blocked) && blocked.CSN == 0 {
		blocked.CSN = csn
	}
	return err
}

// malformed: an error that is none of ours says that the rows are no rows.
func malformed(err error) error {
	var (
		blocked *apply.Blocked
		fatal   *apply.Fatal
		ours    *sendError
		read    *apply.ReadError
	)
	if err == nil || errors.As(err, &blocked) || errors.As(err, &fatal) || errors.As(err, &ours) || errors.As(err, &read) {
		return err
	}
	return &apply.Fatal{Problem: "the stream holds what cannot be read", Err: err}
}

// sendError marks errors of the connection on their way through Walk.
type sendError struct{ error }

func (e *sendError) Unwrap() error { return e.error }

func isNumber(err error, number uint16) bool {
	var my *driver.MySQLError
	return errors.As(err, &my) && my.Number == number
}
