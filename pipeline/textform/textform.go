// Package textform says how PostgreSQL is to write values as text, and to read them.
//
// Values travel as text. The session that decodes them on a shard, the one that writes them to a target, and the ones that
// compare both have to mean the same value by the same text, whatever a server, a database or a role is set to. So each of
// them pins these settings. The encoding, UTF8, is each connection's own matter: it is settled before the first statement.
package textform

import "slices"

var settings = [][2]string{
	{"search_path", ""}, // names of tables, types and functions are written with their schema
	{"DateStyle", "ISO, MDY"},
	{"IntervalStyle", "postgres"},
	{"TimeZone", "UTC"},
	{"lc_monetary", "C"},
	{"extra_float_digits", "1"}, // the shortest text that is read as the same number
	{"bytea_output", "hex"},
	{"xmloption", "content"},
	{"standard_conforming_strings", "on"},
	{"array_nulls", "on"},
}

// Settings are names and values.
func Settings() [][2]string { return slices.Clone(settings) }
