package shape

import (
	"cmp"
	"errors"
	"math"
	"strings"
)

// moment is a date, or a time of a day: days since 1970-01-01 and microseconds since midnight. Years from 4713 BC to 5874897 AD,
// which dates of PostgreSQL have, do not fit what the standard library reads.
type moment struct {
	days int64
	us   int64
}

var (
	endOfTime   = moment{days: math.MaxInt64}
	beginOfTime = moment{days: math.MinInt64}
)

const dayMicroseconds = 24 * 60 * 60 * 1e6

func (m moment) compare(o moment) int {
	return cmp.Or(cmp.Compare(m.days, o.days), cmp.Compare(m.us, o.us))
}

// errMoment does not show the value, which may be one that is masked.
var errMoment = errors.New("no date and no time")

// parseMoment reads the text form of a date, a timestamp or a timestamptz in the style ISO, and of a literal. zoned says whether
// there was an offset from UTC, which the result contains.
func parseMoment(text string) (m moment, zoned bool, err error) {
	switch text {
	case "infinity":
		return endOfTime, true, nil
	case "-infinity":
		return beginOfTime, true, nil
	}
	rest, bc := strings.CutSuffix(text, " BC")
	r := momentReader{rest: rest}
	year := r.number(4, 7)
	r.letter("-")
	month := r.number(2, 2)
	r.letter("-")
	day := r.number(2, 2)
	if bc {
		year = 1 - year
	}
	if month < 1 || month > 12 || day < 1 || day > 31 {
		r.bad = true
	}
	m.days = daysOf(year, month, day)
	if !r.bad && r.rest != "" {
		r.letter(" T")
		m.us = r.clock()
		offset, ok := r.offset()
		zoned = ok
		m.us -= offset
		for ; m.us < 0; m.us += dayMicroseconds {
			m.days--
		}
		for ; m.us >= dayMicroseconds; m.us -= dayMicroseconds {
			m.days++
		}
	}
	if r.bad || r.rest != "" {
		return m, zoned, errMoment
	}
	return m, zoned, nil
}

// daysOf counts the days of the Gregorian calendar, which PostgreSQL uses for all times.
func daysOf(year, month, day int64) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	era := year / 400
	if year < 0 && year%400 != 0 {
		era--
	}
	of := year - era*400
	return era*146097 + of*365 + of/4 - of/100 + (153*(month-3)+2)/5 + day - 1 - 719468
}

// momentReader reads from the left; what does not fit makes it bad.
type momentReader struct {
	rest string
	bad  bool
}

// number reads between least and most digits.
func (r *momentReader) number(least, most int) (n int64) {
	i := 0
	for ; i < len(r.rest) && i < most && r.rest[i] >= '0' && r.rest[i] <= '9'; i++ {
		n = n*10 + int64(r.rest[i]-'0')
	}
	r.bad = r.bad || i < least
	r.rest = r.rest[i:]
	return n
}

// letter reads one of these.
func (r *momentReader) letter(of string) byte {
	if r.rest == "" || strings.IndexByte(of, r.rest[0]) < 0 {
		r.bad = true
		return 0
	}
	c := r.rest[0]
	r.rest = r.rest[1:]
	return c
}

func (r *momentReader) follows(of string) bool {
	return r.rest != "" && strings.IndexByte(of, r.rest[0]) >= 0
}

// clock reads hh:mm, hh:mm:ss or hh:mm:ss.ffffff.
func (r *momentReader) clock() int64 {
	h := r.number(2, 2)
	r.letter(":")
	m, s, us := r.number(2, 2), int64(0), int64(0)
	if r.follows(":") {
		r.letter(":")
		s = r.number(2, 2)
	}
	if r.follows(".") {
		r.letter(".")
		digits := len(r.rest)
		us = r.number(1, 6)
		for digits -= len(r.rest); digits < 6; digits++ {
			us *= 10
		}
	}
	if h > 24 || m > 59 || s > 60 {
		r.bad = true
	}
	return ((h*60+m)*60+s)*1e6 + us
}

// offset reads Z, +hh, +hh:mm or +hh:mm:ss.
func (r *momentReader) offset() (us int64, ok bool) {
	if r.rest == "" {
		return 0, false
	}
	sign := r.letter("Z+-")
	if r.bad || sign == 'Z' {
		return 0, !r.bad
	}
	h, m, s := r.number(2, 2), int64(0), int64(0)
	if r.follows(":") {
		r.letter(":")
		m = r.number(2, 2)
	}
	if r.follows(":") {
		r.letter(":")
		s = r.number(2, 2)
	}
	us = ((h*60+m)*60 + s) * 1e6
	if sign == '-' {
		us = -us
	}
	return us, true
}
