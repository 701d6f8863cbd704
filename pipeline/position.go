package pipeline

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// LSN is a byte position in one shard's write-ahead log. Positions of different shards do not compare.
type LSN uint64

// String prints the position as PostgreSQL does: two hexadecimal halves, "16/B374D848".
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// ParseLSN reads what String and PostgreSQL's pg_lsn type print.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("LSN %q: want two hexadecimal numbers with a slash between, like 16/B374D848", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("LSN %q: %w", s, err)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("LSN %q: %w", s, err)
	}
	return LSN(h<<32 | l), nil
}

func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

func (l *LSN) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLSN(string(b))
	return err
}

// Timestamp is an instant as PostgreSQL sends it: microseconds since 2000-01-01 00:00:00 UTC.
type Timestamp int64

// unixOfEpoch is PostgreSQL's epoch in seconds of the Unix epoch.
const unixOfEpoch = 946684800

// TimestampOf converts a Go time.
func TimestampOf(t time.Time) Timestamp { return Timestamp(t.UnixMicro() - unixOfEpoch*1e6) }

// Time converts to a Go time in UTC.
func (t Timestamp) Time() time.Time { return time.UnixMicro(int64(t) + unixOfEpoch*1e6).UTC() }

// Add returns the instant d later, to the microsecond.
func (t Timestamp) Add(d time.Duration) Timestamp { return t + Timestamp(d/time.Microsecond) }

// Sub returns the time from o to t.
func (t Timestamp) Sub(o Timestamp) time.Duration { return time.Duration(t-o) * time.Microsecond }

func (t Timestamp) String() string { return t.Time().Format("2006-01-02T15:04:05.000000Z") }

func (t Timestamp) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

func (t *Timestamp) UnmarshalText(b []byte) error {
	v, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return fmt.Errorf("timestamp %q: %w", b, err)
	}
	*t = TimestampOf(v)
	return nil
}

// CSN is the commit sequence number, the one global order of transactions: a hybrid logical clock with
// microseconds since 2000-01-01 in the upper 52 bits and a counter in the lower 12. As a signed 64-bit
// number it lasts until the year 2071. The zero CSN is before every transaction.
type CSN uint64

// csnCounterBits is the width of the counter below the microseconds.
const csnCounterBits = 12

// CSNAt is the lowest CSN of an instant. Instants before 2000 map to zero.
func CSNAt(t Timestamp) CSN {
	if t <= 0 {
		return 0
	}
	return CSN(t) << csnCounterBits
}

// Time is the instant in the CSN's upper bits.
func (c CSN) Time() Timestamp { return Timestamp(c >> csnCounterBits) }

// String prints the CSN in decimal, which is also its form in JSON (as a string: it does not fit a double).
func (c CSN) String() string { return strconv.FormatUint(uint64(c), 10) }

// ParseCSN reads what String prints.
func ParseCSN(s string) (CSN, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("CSN %q: want a decimal number", s)
	}
	return CSN(v), nil
}

func (c CSN) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func (c *CSN) UnmarshalText(b []byte) (err error) {
	*c, err = ParseCSN(string(b))
	return err
}

// ShardID is a shard's index in its subscription. It never changes for the subscription's life; the name
// that people use stands in the subscription.
type ShardID uint16

// XID is a transaction number of one shard. It wraps around after 2^32.
type XID uint32

// Seq is a message's sequence number in a JetStream stream; the first is 1.
type Seq uint64
