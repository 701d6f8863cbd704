package gid

import "strings"

// namedRule is a built-in rule and what it is for.
type namedRule struct {
	Name string
	Rule
}

// named lists the built-in rules in their order. The forms that map to themselves are here so that the list
// says all that is known, and so that no rule behind them takes them for something else.
var named = []namedRule{
	// Source group, backend, transaction number; then a number per connection: a transaction may have two
	// fragments on one shard. (remote_transaction.c, PREPARED_TRANSACTION_NAME_FORMAT)
	{"Citus", Rule{`(citus_\d+_\d+_\d+)_\d+`, "$1"}},
	// The instance, a random 64-bit number, the shard. Early releases left out the instance, the shard, or both;
	// the size of the numbers tells them apart.
	{"PgDog", Rule{`(__pgdog_2pc_(?:.+_)?\d{9,})_\d{1,5}`, "$1"}},
	{"dual write", Rule{`(dualwrite:.+):(?:left|right)`, "$1"}},
	{"Postgres-XL, TBase", Rule{`_\$XC\$.*`, "$0"}},
	{"openGauss, GaussDB", Rule{`N\d+_.*`, "$0"}},
	{"Postgres Pro multimaster", Rule{`MTM.*`, "$0"}},
	// Two-phase transactions that a subscription applies: pg_gid_<subscription>_<remote xid>.
	{"logical replication", Rule{`pg_gid_\d+_\d+`, "$0"}},
	// Time stamp and global xid with at least ten digits, equal on all segments. (dtxFormGID)
	{"Greenplum", Rule{`\d+-\d{10,}`, "$0"}},
	// XA through the PostgreSQL JDBC driver (Atomikos, Narayana, Bitronix, ShardingSphere, Seata): format id,
	// global transaction id and branch qualifier, both in base64. The branch differs per shard. Every
	// transaction manager known uses twelve bytes or more for the global id; asking for that keeps names like
	// 1_user_0001 whole. (RecoveredXid.java)
	{"XA", Rule{`(-?\d+_(?:[A-Za-z0-9+/]{4}){3,}(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==))` +
		`_(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)?`, "$1"}},
	// A generated gid (a short UUID, or a UUID) and a branch: two digits for each level. Other gids that an
	// application chooses for itself need a rule of its own: a date or a number may end like a branch.
	// (trans_xa_base.go, branch ids of BranchIDGen)
	{"dtm", Rule{`([2-9A-HJ-NP-Za-km-z]{22}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})-(?:\d\d){1,10}`, "$1"}},
}

// likely are cheap tests for the rules without a literal prefix, by name.
var likely = map[string]func(gid string) bool{
	"Greenplum": func(gid string) bool { return numeric(gid) && strings.IndexByte(gid, '-') > 0 },
	"XA":        func(gid string) bool { return numeric(gid) && strings.Count(gid, "_") == 2 },
	"dtm":       func(gid string) bool { return len(gid) > 24 && (gid[22] == '-' || len(gid) > 38 && gid[36] == '-') },
}

// numeric says whether a gid begins like a number, which few coordinators' gids do.
func numeric(gid string) bool {
	return gid != "" && (gid[0] == '-' || '0' <= gid[0] && gid[0] <= '9')
}

var builtin = compileBuiltin()

func compileBuiltin() []rule {
	out := make([]rule, len(named))
	for i, n := range named {
		c, err := compile(n.Rule)
		if err != nil {
			panic("gid: built-in rule " + n.Name + ": " + err.Error())
		}
		c.likely = likely[n.Name]
		out[i] = c
	}
	return out
}
