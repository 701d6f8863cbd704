package ddl

import (
	"slices"
	"strconv"
	"strings"
)

// Narrows says that a column's new type may refuse values that the old one has, so that it must not come before the last
// shard has it. Types are as format_type writes them, with modifiers. Of types that are not known to be narrower or wider
// the new one comes first: text of the old one is mostly read by it.
func Narrows(old, new string) bool {
	oldBase, oldMod := typeParts(old)
	newBase, newMod := typeParts(new)
	for _, chain := range [][]string{
		{"smallint", "integer", "bigint", "numeric"},
		{"real", "double precision"},
		{"date", "timestamp without time zone"},
		{"character", "character varying", "text"},
		{"bit", "bit varying"},
		{"cidr", "inet"},
		{"macaddr", "macaddr8"},
	} {
		from, to := slices.Index(chain, oldBase), slices.Index(chain, newBase)
		switch {
		case from < 0 || to < 0:
			continue
		case to != from:
			return to < from || shorter(nil, newMod) && chain[0] == "character"
		}
		return shorter(oldMod, newMod)
	}
	return oldBase == "text" || oldBase == "character varying" || oldBase == "character" // everything has a text, not the other way round
}

// shorter says that a modifier allows less; none allows all.
func shorter(old, new []int) bool {
	if len(new) == 0 {
		return false
	}
	if len(old) == 0 {
		return true
	}
	if len(old) == 2 && len(new) == 2 { // numeric: digits in front of the point, and behind
		return new[0]-new[1] < old[0]-old[1] || new[1] < old[1]
	}
	return new[0] < old[0]
}

func typeParts(t string) (base string, modifier []int) {
	base, rest, ok := strings.Cut(t, "(")
	if !ok {
		return strings.TrimSpace(base), nil
	}
	inside, behind, _ := strings.Cut(rest, ")")
	for _, text := range strings.Split(inside, ",") {
		if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil {
			modifier = append(modifier, n)
		}
	}
	return strings.TrimSpace(base) + strings.TrimRight(behind, " "), modifier
}

// Fits says that the text of a value of the old type, read as the new one, is what a cast makes of the value: rows come so from
// shards that have not run the statement. Settings are those of the session that casts; rows come with others.
func Fits(old, new string, settings map[string]string) bool {
	from, _ := typeParts(strings.TrimSuffix(old, "[]"))
	to, _ := typeParts(strings.TrimSuffix(new, "[]"))
	texts := []string{"character", "character varying", "text"}
	switch {
	case from == to:
		return true
	case from == "real", from == "double precision":
		return slices.Contains(texts, to) || from == "double precision" && to == "real" // a cast rounds
	case from == "character":
		return false // a cast takes the blanks away
	case from == "boolean", from == "inet":
		return !slices.Contains(texts, to) // t and true, 10.0.0.1 and 10.0.0.1/32
	}
	times := func(t string) bool {
		return slices.Contains([]string{"date", "interval"}, t) || strings.HasPrefix(t, "time")
	}
	zone := func(t string) bool { return strings.HasSuffix(t, "with time zone") }
	switch {
	case !times(from):
		return true
	case zone(from) != zone(to) && settings["TimeZone"] != "UTC":
		return false
	case !times(to):
		return strings.HasPrefix(settings["DateStyle"], "ISO") && settings["IntervalStyle"] == "postgres"
	}
	return true
}
