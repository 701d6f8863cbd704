package debezium

import (
	"strconv"
	"strings"
)

// Forms of dates and times. What each time.precision.mode gives, as in Debezium; see docs/debezium.md.

// A unit is how many of it a second has.
const (
	inMillis = 1_000
	inMicros = 1_000_000
	inNanos  = 1_000_000_000
)

// precision is that of a time or timestamp, from its modifier.
func precision(modifier int32) int {
	if modifier < 0 || modifier > 6 {
		return 6
	}
	return int(modifier)
}

// unitOf is the unit that a mode gives to a type with a precision.
func unitOf(mode string, digits int, ofDay bool) int64 {
	switch {
	case mode == "nanoseconds":
		return inNanos
	case mode == "connect", digits <= 3 && (mode == "adaptive" || mode == "adaptive_time_microseconds" && !ofDay):
		return inMillis
	}
	return inMicros
}

// temporal is the schema of an integer of time.
func temporal(mode, kind, debezium, connect string) node {
	name := "io.debezium.time." + debezium
	if mode == "connect" {
		name = "org.apache.kafka.connect.data." + connect
	}
	return named(kind, name)
}

// units are the prefixes of the names of types.
var units = map[int64]string{inMillis: "", inMicros: "Micro", inNanos: "Nano"}

func dateForm(mode string) form {
	if mode == "isostring" {
		return textForm(named("string", "io.debezium.time.IsoDate"), func(dst, text []byte) ([]byte, error) {
			m, ok := parse(text, "d")
			if !ok {
				return dst, errNoForm
			}
			return append(m.appendDate(append(dst, '"')), 'Z', '"'), nil
		})
	}
	return integerForm(temporal(mode, "int32", "Date", "Date"), func(dst, text []byte) ([]byte, error) {
		m, ok := parse(text, "d")
		switch {
		case ok:
			return strconv.AppendInt(dst, m.days(), 10), nil
		case mode == "connect": // Kafka's type has no value for it
		case string(text) == "infinity":
			return append(dst, "-2147472692"...), nil
		case string(text) == "-infinity":
			return append(dst, "-2147472691"...), nil
		}
		return dst, errNoForm
	})
}

func timeForm(mode string, modifier int32) form {
	if mode == "isostring" {
		return textForm(named("string", "io.debezium.time.IsoTime"), func(dst, text []byte) ([]byte, error) {
			m, ok := parse(text, "t")
			if !ok {
				return dst, errNoForm
			}
			return append(m.appendTime(append(dst, '"'), -1), 'Z', '"'), nil
		})
	}
	unit := unitOf(mode, precision(modifier), true)
	kind := "int64"
	if unit == inMillis {
		kind = "int32"
	}
	return integerForm(temporal(mode, kind, units[unit]+"Time", "Time"), func(dst, text []byte) ([]byte, error) {
		m, ok := parse(text, "t")
		if !ok {
			return dst, errNoForm
		}
		return appendScaled(dst, m.ofDay(), m.micro, unit)
	})
}

// What Debezium writes for timestamps of infinity.
var infinities = map[int64]map[string]string{
	inMillis: {"infinity": "9223372036825200", "-infinity": "-9223372036832400"},
	inMicros: {"infinity": "9223372036825200000", "-infinity": "-9223372036832400000"},
	inNanos:  {"infinity": "9223372036854775807", "-infinity": "-9223372036854775808"},
	0:        {"infinity": `"+294247-01-10T04:00:25.2Z"`, "-infinity": `"-290308-12-21T19:59:27.6Z"`}, // isostring
}

func timestampForm(mode string, modifier int32) form {
	if mode == "isostring" {
		return textForm(named("string", "io.debezium.time.IsoTimestamp"), func(dst, text []byte) ([]byte, error) {
			m, ok := parse(text, "dt")
			if !ok {
				return appendInfinity(dst, text, 0)
			}
			dst = append(m.appendDate(append(dst, '"')), 'T')
			return append(m.appendTime(dst, -1), 'Z', '"'), nil
		})
	}
	unit := unitOf(mode, precision(modifier), false)
	return integerForm(temporal(mode, "int64", units[unit]+"Timestamp", "Timestamp"), func(dst, text []byte) ([]byte, error) {
		m, ok := parse(text, "dt")
		if !ok {
			return appendInfinity(dst, text, unit)
		}
		return appendScaled(dst, m.seconds(), m.micro, unit)
	})
}

func appendInfinity(dst, text []byte, unit int64) ([]byte, error) {
	value := infinities[unit][string(text)]
	if value == "" {
		return dst, errNoForm
	}
	return append(dst, value...), nil
}

// zonedTimestampForm: the session's time zone is UTC, so the offset is 0.
func zonedTimestampForm(modifier int32) form {
	digits := precision(modifier)
	return textForm(named("string", "io.debezium.time.ZonedTimestamp"), func(dst, text []byte) ([]byte, error) {
		m, ok := parse(text, "dtz")
		if !ok || m.offset != 0 { // also infinity, which is written as it stands
			return dst, errNoForm
		}
		dst = append(m.appendDate(append(dst, '"')), 'T')
		return append(m.appendTime(dst, max(digits, len(m.fraction))), 'Z', '"'), nil
	})
}

// zonedTimeForm shifts to UTC; midnight at the end of the day is kept where it is in UTC.
func zonedTimeForm() form {
	return textForm(named("string", "io.debezium.time.ZonedTime"), func(dst, text []byte) ([]byte, error) {
		m, ok := parse(text, "tz")
		if !ok {
			return dst, errNoForm
		}
		if m.offset != 0 {
			of := m.ofDay() - m.offset
			of -= floorDiv(of, 86400) * 86400
			m.hour, m.minute, m.second = of/3600, of/60%60, of%60
		}
		return append(m.appendTime(append(dst, '"'), -1), 'Z', '"'), nil
	})
}

// span is an interval: its parts have signs of their own.
type span struct {
	years, months, days, hours, minutes, seconds, micros int64
}

// parseSpan reads an interval in the style postgres: "1 year 2 mons -3 days +04:05:06.78".
func parseSpan(text []byte) (p span, ok bool) {
	words := strings.Fields(string(text))
	for len(words) > 0 {
		word, negative := strings.TrimPrefix(words[0], "+"), false
		if strings.HasPrefix(word, "-") {
			word, negative = word[1:], true
		}
		if strings.Contains(word, ":") {
			m, ok := parse([]byte(word), "t")
			if negative {
				m.hour, m.minute, m.second, m.micro = -m.hour, -m.minute, -m.second, -m.micro
			}
			p.hours, p.minutes, p.seconds, p.micros = m.hour, m.minute, m.second, m.micro
			return p, ok && len(words) == 1
		}
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil || len(words) == 1 {
			return p, false
		}
		if negative {
			n = -n
		}
		switch strings.TrimSuffix(words[1], "s") {
		case "year":
			p.years = n
		case "mon":
			p.months = n
		case "day":
			p.days = n
		default:
			return p, false
		}
		words = words[2:]
	}
	return p, len(text) > 0
}

func intervalForm(mode string) form {
	if mode == "string" {
		return textForm(named("string", "io.debezium.time.Interval"), func(dst, text []byte) ([]byte, error) {
			p, ok := parseSpan(text)
			if !ok {
				return dst, errNoForm
			}
			return append(p.appendISO(append(dst, '"')), '"'), nil
		})
	}
	const month = 2_629_800 // seconds: 365.25 days by 12
	return integerForm(named("int64", "io.debezium.time.MicroDuration"), func(dst, text []byte) ([]byte, error) {
		p, ok := parseSpan(text)
		if !ok {
			return dst, errNoForm
		}
		seconds := (p.years*12+p.months)*month + p.days*86400 + p.hours*3600 + p.minutes*60 + p.seconds
		return appendScaled(dst, seconds, p.micros, inMicros)
	})
}

// appendISO writes all parts, in the form of ISO 8601 with signs.
func (p *span) appendISO(dst []byte) []byte {
	part := func(n int64, letter string) {
		dst = append(strconv.AppendInt(dst, n, 10), letter...)
	}
	dst = append(dst, 'P')
	part(p.years, "Y")
	part(p.months, "M")
	part(p.days, "DT")
	part(p.hours, "H")
	part(p.minutes, "M")
	micros := p.micros
	if p.seconds < 0 || micros < 0 {
		dst, micros = append(dst, '-'), -micros
	}
	dst = strconv.AppendInt(dst, max(p.seconds, -p.seconds), 10)
	if micros != 0 {
		m := moment{fraction: []byte(strings.TrimRight(string(appendDigits(nil, micros, 6)), "0"))}
		dst = append(append(dst, '.'), m.fraction...)
	}
	return append(dst, 'S')
}
