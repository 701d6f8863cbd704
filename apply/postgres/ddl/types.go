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
		{"smallint", "integer", "bigint", "numeric"}, {"real", "double precision"}, {"date", "timestamp without time zone"},
		{"character", "character varying", "text"}, {"bit", "bit varying"}, {"cidr", "inet"}, {"macaddr", "macaddr8"},
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
