package debezium

import (
	"bytes"
	"math"
	"strconv"
)

// moment is a date, a time of day, or both, as PostgreSQL writes them with DateStyle ISO.
type moment struct {
	year                 int64 // astronomical: 0 is 1 BC
	month, day           int64
	hour, minute, second int64
	micro                int64
	fraction             []byte // of the second, without zeros at the end
	offset               int64  // seconds east of UTC
}

// scan cuts numbers from the front of a text.
type scan struct {
	rest []byte
	bad  bool
}

func (s *scan) number() int64 {
	n := 0
	for n < len(s.rest) && s.rest[n] >= '0' && s.rest[n] <= '9' {
		n++
	}
	v, err := strconv.ParseInt(string(s.rest[:n]), 10, 64)
	s.bad = s.bad || err != nil
	s.rest = s.rest[n:]
	return v
}

func (s *scan) take(c byte) bool {
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scan) expect(c byte) { s.bad = !s.take(c) || s.bad }

func (s *scan) date(m *moment) {
	var bc bool
	if s.rest, bc = bytes.CutSuffix(s.rest, []byte(" BC")); bc {
		defer func() { m.year = 1 - m.year }()
	}
	m.year = s.number()
	s.expect('-')
	m.month = s.number()
	s.expect('-')
	m.day = s.number()
}

func (s *scan) time(m *moment) {
	m.hour = s.number()
	s.expect(':')
	m.minute = s.number()
	s.expect(':')
	m.second = s.number()
	if !s.take('.') {
		return
	}
	before := s.rest
	s.number()
	digits := before[:len(before)-len(s.rest)]
	if len(digits) > 6 {
		s.bad = true
		return
	}
	m.fraction = bytes.TrimRight(digits, "0")
	for i := range 6 {
		m.micro *= 10
		if i < len(digits) {
			m.micro += int64(digits[i] - '0')
		}
	}
}

func (s *scan) zone(m *moment) {
	negative := s.take('-')
	if !negative {
		s.expect('+')
	}
	m.offset = s.number() * 3600
	if s.take(':') {
		m.offset += s.number() * 60
	}
	if s.take(':') {
		m.offset += s.number()
	}
	if negative {
		m.offset = -m.offset
	}
}

// parse reads what the parts say: of 'd' date, 't' time, 'z' zone.
func parse(text []byte, parts string) (m moment, ok bool) {
	s := scan{rest: text}
	for i, part := range parts {
		if part == 't' && i > 0 {
			s.expect(' ')
		}
		switch part {
		case 'd':
			s.date(&m)
		case 't':
			s.time(&m)
		case 'z':
			s.zone(&m)
		}
	}
	return m, !s.bad && len(s.rest) == 0
}

// days since 1970-01-01 in the Gregorian calendar, which PostgreSQL uses for all times.
func (m *moment) days() int64 {
	y, month := m.year, m.month
	if month <= 2 {
		y, month = y-1, month+12
	}
	era := floorDiv(y, 400)
	ofEra := y - era*400
	ofYear := (153*(month-3)+2)/5 + m.day - 1
	return era*146097 + ofEra*365 + ofEra/4 - ofEra/100 + ofYear - 719468
}

// ofDay is the time of day in seconds.
func (m *moment) ofDay() int64 { return m.hour*3600 + m.minute*60 + m.second }

// seconds since 1970-01-01 UTC.
func (m *moment) seconds() int64 { return m.days()*86400 + m.ofDay() - m.offset }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// appendScaled writes seconds and microseconds in a unit of which a second has so many, if an int64 holds it.
func appendScaled(dst []byte, seconds, micro, unit int64) ([]byte, error) {
	fraction := micro * unit / 1_000_000
	if unit < 1_000_000 {
		fraction = floorDiv(micro, 1_000_000/unit)
	}
	if seconds > math.MaxInt64/unit-1 || seconds < math.MinInt64/unit+1 {
		return dst, errNoForm
	}
	return strconv.AppendInt(dst, seconds*unit+fraction, 10), nil
}

// appendDate writes a date as Java does: years beyond 9999 with a sign, those before Christ from year 0 down.
func (m *moment) appendDate(dst []byte) []byte {
	year := m.year
	switch {
	case year < 0:
		dst, year = append(dst, '-'), -year
	case year > 9999:
		dst = append(dst, '+')
	}
	dst = appendDigits(dst, year, 4)
	dst = appendDigits(append(dst, '-'), m.month, 2)
	return appendDigits(append(dst, '-'), m.day, 2)
}

// appendTime writes the time of day. digits is how many the fraction has; below 0: as many as it needs.
func (m *moment) appendTime(dst []byte, digits int) []byte {
	dst = appendDigits(dst, m.hour, 2)
	dst = appendDigits(append(dst, ':'), m.minute, 2)
	dst = appendDigits(append(dst, ':'), m.second, 2)
	if digits < 0 {
		digits = len(m.fraction)
	}
	if digits == 0 {
		return dst
	}
	dst = append(append(dst, '.'), m.fraction...)
	for range digits - len(m.fraction) {
		dst = append(dst, '0')
	}
	return dst
}

// appendDigits writes at least so many digits.
func appendDigits(dst []byte, v int64, digits int) []byte {
	for limit := int64(math.Pow10(digits - 1)); v < limit && limit > 1; limit /= 10 {
		dst = append(dst, '0')
	}
	return strconv.AppendInt(dst, v, 10)
}
