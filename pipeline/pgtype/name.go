// Package pgtype is what is known about PostgreSQL's types without asking a database: names of the built-in ones, and their text forms.
package pgtype

import "shardcdc/pipeline"

// Name is PostgreSQL's name of a type; of a type of the user's with its schema. Empty: a built-in type that is not known
// here.
func Name(r *pipeline.Relation, oid uint32) string {
	if t, ok := r.TypeName(oid); ok {
		if t.Namespace == "pg_catalog" {
			return t.Name // the base type of a domain
		}
		return t.Namespace + "." + t.Name
	}
	if name, ok := builtIn[oid]; ok {
		return name
	}
	if name, ok := builtIn[elementOf[oid]]; ok {
		return name + "[]"
	}
	return ""
}

// builtIn are the types of pg_type.dat that columns have.
var builtIn = map[uint32]string{
	16: "bool", 17: "bytea", 18: "char", 19: "name", 20: "int8", 21: "int2", 22: "int2vector", 23: "int4", 24: "regproc", 25: "text", 26: "oid",
	27: "tid", 28: "xid", 29: "cid", 30: "oidvector", 114: "json", 142: "xml", 600: "point", 601: "lseg", 602: "path", 603: "box", 604: "polygon",
	628: "line", 650: "cidr", 700: "float4", 701: "float8", 718: "circle", 774: "macaddr8", 790: "money", 829: "macaddr", 869: "inet",
	1042: "bpchar", 1043: "varchar", 1082: "date", 1083: "time", 1114: "timestamp", 1184: "timestamptz", 1186: "interval", 1266: "timetz",
	1560: "bit", 1562: "varbit", 1700: "numeric", 2205: "regclass", 2206: "regtype", 2950: "uuid", 3220: "pg_lsn", 3614: "tsvector",
	3615: "tsquery", 3802: "jsonb", 3904: "int4range", 3906: "numrange", 3908: "tsrange", 3910: "tstzrange", 3912: "daterange", 3926: "int8range",
	1033: "aclitem", 1790: "refcursor", 2202: "regprocedure", 2203: "regoper", 2204: "regoperator", 2970: "txid_snapshot", 3734: "regconfig",
	3769: "regdictionary", 4089: "regnamespace", 4096: "regrole", 4191: "regcollation", 5038: "pg_snapshot",
	4072: "jsonpath", 4451: "int4multirange", 4532: "nummultirange", 4533: "tsmultirange", 4534: "tstzmultirange", 4535: "datemultirange",
	4536: "int8multirange", 5069: "xid8",
}

// elementOf are the arrays of those.
var elementOf = map[uint32]uint32{
	1000: 16, 1001: 17, 1002: 18, 1003: 19, 1016: 20, 1005: 21, 1007: 23, 1008: 24, 1009: 25, 1028: 26, 1010: 27, 1011: 28, 1012: 29,
	199: 114, 143: 142, 1017: 600, 1018: 601, 1019: 602, 1020: 603, 1027: 604, 629: 628, 651: 650, 1021: 700, 1022: 701, 719: 718, 775: 774,
	791: 790, 1040: 829, 1041: 869, 1014: 1042, 1015: 1043, 1182: 1082, 1183: 1083, 1115: 1114, 1185: 1184, 1187: 1186, 1270: 1266, 1561: 1560,
	1563: 1562, 1231: 1700, 2951: 2950, 3221: 3220, 3643: 3614, 3645: 3615, 3807: 3802, 3905: 3904, 3907: 3906, 3909: 3908, 3911: 3910, 3913: 3912,
	1006: 22, 1013: 30, 1034: 1033, 2201: 1790, 2207: 2202, 2208: 2203, 2209: 2204, 2210: 2205, 2211: 2206, 2949: 2970, 3735: 3734, 3770: 3769,
	4090: 4089, 4097: 4096, 4192: 4191, 5039: 5038, 3927: 3926, 4073: 4072, 6150: 4451, 6151: 4532, 6152: 4533, 6153: 4534, 6155: 4535, 6157: 4536, 271: 5069,
}
