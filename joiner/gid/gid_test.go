package gid

import (
	"strings"
	"testing"
)

func mustNew(t testing.TB, user ...Rule) *Rules {
	t.Helper()
	r, err := New(user)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestBuiltin: gids as their coordinators write them, and what their fragments share.
func TestBuiltin(t *testing.T) {
	const (
		atomikos  = "1096044365_MTI3LjAuMS4xLnRtMTY5MDAwMDAwMDAwMTAwMDAx" // 127.0.1.1.tm169000000000100001
		narayana  = "131077_AAAAAAAAAAAAAP//CgABAgAAg5NkxJ6qAAAAGTE="
		seata     = "9752_MTkyLjE2OC4xLjU6ODA5MToyMDkwNDg2MTgxMTI0NTA1NjE=" // 192.168.1.5:8091:209048618112450561
		shortUUID = "KwSysDpxcBU9FNhGkn2dCf"
		uuid      = "550e8400-e29b-41d4-a716-446655440000"
	)
	for _, c := range []struct{ name, gid, want string }{
		{"citus, first connection", "citus_0_1108_13_0", "citus_0_1108_13"},
		{"citus, another connection", "citus_0_1108_13_1", "citus_0_1108_13"},
		{"citus, started by a worker", "citus_1_1307_1_0", "citus_1_1307_1"},
		{"citus, largest", "citus_4294967295_4294967295_18446744073709551615_4294967295", "citus_4294967295_4294967295_18446744073709551615"},
		{"not citus", "citus_0_1108_13", "citus_0_1108_13"},
		{"not citus either", "citus_0_1108_13_0_backup", "citus_0_1108_13_0_backup"},

		{"pgdog", "__pgdog_2pc_17446744073709551615_0", "__pgdog_2pc_17446744073709551615"},
		{"pgdog with its instance", "__pgdog_2pc_a1b2c3d4_17446744073709551615_3", "__pgdog_2pc_a1b2c3d4_17446744073709551615"},
		{"pgdog with an instance of digits", "__pgdog_2pc_12345678_17446744073709551615_3", "__pgdog_2pc_12345678_17446744073709551615"},
		{"pgdog without a shard", "__pgdog_2pc_17446744073709551615", "__pgdog_2pc_17446744073709551615"},
		{"pgdog with its instance, without a shard", "__pgdog_2pc_1234567890_17446744073709551615", "__pgdog_2pc_1234567890_17446744073709551615"},

		{"atomikos", atomikos + "_MTI3LjAuMS4xLnRtMQ==", atomikos},
		{"atomikos, another branch", atomikos + "_MTI3LjAuMS4xLnRtMg==", atomikos},
		{"narayana", narayana + "_AAAAAAAAAAAAAP//CgABAgAAg5NkxJ6qAAAAHg==", narayana},
		{"seata", seata + "_LTIwOTA0ODYxODExMjQ1MDU2Mw==", seata},
		{"xa without a branch", seata + "_", seata},
		{"xa, negative format", "-4_MTI3LjAuMS4xLnRtMTY5_MQ==", "-4_MTI3LjAuMS4xLnRtMTY5"},
		{"not xa: too short to be told from a name", "1_user_0001", "1_user_0001"},
		{"not xa: still too short", "1_customer_0001", "1_customer_0001"},

		{"dtm", shortUUID + "-01", shortUUID},
		{"dtm, a branch of a branch", shortUUID + "-0102", shortUUID},
		{"dtm on a uuid", uuid + "-02", uuid},
		{"not dtm: a uuid alone", uuid, uuid},
		{"not dtm: a date", "order-2024-01-05", "order-2024-01-05"},

		{"dual write, left", "dualwrite:persons:1700000000000:8f3a:left", "dualwrite:persons:1700000000000:8f3a"},
		{"dual write, right", "dualwrite:persons:1700000000000:8f3a:right", "dualwrite:persons:1700000000000:8f3a"},

		{"openGauss", "N1234567_cn_5001", "N1234567_cn_5001"},
		{"Postgres-XL", "_$XC$12:coord1:F:2:0-2885965:-79866771", "_$XC$12:coord1:F:2:0-2885965:-79866771"},
		{"Greenplum", "1700000000-0000000042", "1700000000-0000000042"},
		{"multimaster", "MTM-1-77-2", "MTM-1-77-2"},
		{"subscription", "pg_gid_16394_771", "pg_gid_16394_771"},
		{"anything", "transfer 7", "transfer 7"},
		{"line feeds", "a\nb_1\n", "a\nb_1\n"},
		{"empty", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := mustNew(t).Global(c.gid); got != c.want {
				t.Errorf("Global(%q) = %q, want %q", c.gid, got, c.want)
			}
		})
	}
}

func TestUserRulesComeFirst(t *testing.T) {
	r := mustNew(t,
		Rule{`citus_(?P<rest>.*)_\d+`, "mine:${rest}"},
		Rule{`app/(\w+)/(\d+)/\w+`, "$1.$2"},
		Rule{`cash$`, "$0"},
		Rule{`(x*)y.*`, "all-$1"},
		Rule{`a|ab(c)?`, "$1"},
		Rule{`price-(\d+)-\d`, "$$$1"},
	)
	for gid, want := range map[string]string{
		"citus_0_1108_13_1": "mine:0_1108_13",
		"app/pay/17/a":      "pay.17",
		"app/pay/17/a/b":    "app/pay/17/a/b", // the whole gid has to match
		"xxy1":              "all-xx",
		"y1":                "y1", // an empty group names no transaction
		"ab":                "ab", // neither does one that took no part
		"abc":               "c",
		"price-5-1":         "$5",
		"citus_0_1_2_x":     "citus_0_1_2_x",
	} {
		if got := r.Global(gid); got != want {
			t.Errorf("Global(%q) = %q, want %q", gid, got, want)
		}
	}
}

// TestErrors pins the texts: each names the rule and what to write.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		rule Rule
		want string
	}{
		{Rule{`app_(\d+`, "$1"}, `gid rule 1 (pattern "app_(\\d+", template "$1"): the pattern is not a regular expression: error parsing regexp: missing closing ): ` + "`app_(\\d+`"},
		{Rule{`a)|(b`, "$1"}, `gid rule 1 (pattern "a)|(b", template "$1"): the pattern is not a regular expression: error parsing regexp: unexpected ): ` + "`a)|(b`"},
		{Rule{``, "$1"}, `gid rule 1 (pattern "", template "$1"): the pattern is empty. Try: a regular expression with a group, like app_(\d+)_\d+`},
		{Rule{`app_(\d+)_\d+`, "$2"}, `gid rule 1 (pattern "app_(\\d+)_\\d+", template "$2"): the template names group "2", but the pattern has the groups 1. Try: ${1}, with the braces, before a letter, digit or underscore`},
		{Rule{`app_(\d+)_\d+`, "$1x"}, `gid rule 1 (pattern "app_(\\d+)_\\d+", template "$1x"): the template names group "1x", but the pattern has the groups 1. Try: ${1}, with the braces, before a letter, digit or underscore`},
		{Rule{`app_(?P<id>\d+)`, "${name}"}, `gid rule 1 (pattern "app_(?P<id>\\d+)", template "${name}"): the template names group "name", but the pattern has the groups id. Try: ${1}, with the braces, before a letter, digit or underscore`},
		{Rule{`app`, "$1"}, `gid rule 1 (pattern "app", template "$1"): the template names group "1", but the pattern has no groups. Try: ${1}, with the braces, before a letter, digit or underscore`},
		{Rule{`app_(\d+)`, "app"}, `gid rule 1 (pattern "app_(\\d+)", template "app"): the template names no group of the pattern, so all gids that match would be one transaction. Try: $1, and parentheses in the pattern around what the fragments share`},
		{Rule{`app_(\d+)`, ""}, `gid rule 1 (pattern "app_(\\d+)", template ""): the template names no group of the pattern, so all gids that match would be one transaction. Try: $1, and parentheses in the pattern around what the fragments share`},
		{Rule{`app_(\d+)`, "$$1"}, `gid rule 1 (pattern "app_(\\d+)", template "$$1"): the template names no group of the pattern, so all gids that match would be one transaction. Try: $1, and parentheses in the pattern around what the fragments share`},
		{Rule{`app_(\d+)`, "$1-$"}, `gid rule 1 (pattern "app_(\\d+)", template "$1-$"): the template has a $ without a group's name after it. Try: ${1} for a group, $$ for a dollar sign`},
		{Rule{`app_(\d+)`, "${1"}, `gid rule 1 (pattern "app_(\\d+)", template "${1"): the template has a $ without a group's name after it. Try: ${1} for a group, $$ for a dollar sign`},
		{Rule{`app_(\d+)`, "${}"}, `gid rule 1 (pattern "app_(\\d+)", template "${}"): the template has a $ without a group's name after it. Try: ${1} for a group, $$ for a dollar sign`},
	} {
		r, err := New([]Rule{c.rule})
		if err == nil {
			t.Errorf("%q is accepted", c.rule)
			continue
		}
		if r != nil || err.Error() != c.want {
			t.Errorf("%q:\n got %s\nwant %s", c.rule, err, c.want)
		}
	}
}

// TestErrorsAreAllListed: every fault at once, each with its rule's number.
func TestErrorsAreAllListed(t *testing.T) {
	_, err := New([]Rule{{`(`, "$1"}, {`app_(\d+)_\d+`, "$1"}, {`x(.*)`, "x"}})
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "gid rule 1 ") || !strings.HasPrefix(lines[1], "gid rule 3 ") {
		t.Errorf("got %q", lines)
	}
}

// TestCheapTestsHideNothing: the tests before the regular expressions do not change a result.
func TestCheapTestsHideNothing(t *testing.T) {
	for i, n := range named {
		if n.Template == "$0" {
			continue
		}
		bare := builtin[i]
		bare.prefix, bare.likely = "", nil
		for _, gid := range corpus {
			a, okA := builtin[i].apply(gid)
			b, okB := bare.apply(gid)
			if a != b || okA != okB {
				t.Errorf("%s: %q gives %q %v with the cheap test and %q %v without", n.Name, gid, a, okA, b, okB)
			}
		}
	}
}

// corpus has at least one gid for every built-in rule.
var corpus = []string{
	"citus_0_1108_13_1", "__pgdog_2pc_123456789_0", "__pgdog_2pc_a1_123456789_0", "dualwrite:a:1:b:left", "_$XC$1:c", "N1_cn", "MTM-1", "pg_gid_1_2",
	"1700000000-0000000042", "-4_MTI3LjAuMS4xLnRtMTY5_MQ==", "KwSysDpxcBU9FNhGkn2dCf-01",
	"550e8400-e29b-41d4-a716-446655440000-02", "550e8400-e29b-41d4-a716-446655440000", "", "a", "-", "1",
}

func TestEveryBuiltinHasAnExample(t *testing.T) {
	for i, n := range named {
		found := false
		for _, gid := range corpus {
			_, ok := builtin[i].apply(gid)
			found = found || ok
		}
		if !found {
			t.Errorf("no example of %s", n.Name)
		}
	}
}

func FuzzGlobal(f *testing.F) {
	for _, gid := range corpus {
		f.Add(gid)
	}
	r := mustNew(f)
	f.Fuzz(func(t *testing.T, gid string) {
		id := r.Global(gid)
		if gid != "" && id == "" {
			t.Errorf("Global(%q) is empty", gid)
		}
		if !strings.HasPrefix(gid, id) {
			t.Errorf("Global(%q) = %q, which is no beginning of it", gid, id)
		}
	})
}

func FuzzNew(f *testing.F) {
	f.Add(`app_(\d+)_\d+`, "$1", "app_1_2")
	f.Add(`(a)?(?P<n>b*)`, "${n}-$1", "")
	f.Add(`(`, "$", "x")
	f.Add(`(?i:(é))`, "$01", "É")
	f.Fuzz(func(t *testing.T, pattern, template, gid string) {
		r, err := New([]Rule{{pattern, template}})
		if err != nil {
			return
		}
		if gid != "" && r.Global(gid) == "" {
			t.Errorf("pattern %q, template %q: Global(%q) is empty", pattern, template, gid)
		}
	})
}

func BenchmarkGlobal(b *testing.B) {
	r := mustNew(b)
	for _, c := range []struct{ name, gid string }{
		{"whole", "transfer-7f3a9c"},
		{"uuid", "550e8400-e29b-41d4-a716-446655440000"},
		{"citus", "citus_0_1108_13_1"},
		{"xa", "1096044365_MTI3LjAuMS4xLnRtMTY5MDAwMDAwMDAwMTAwMDAx_MTI3LjAuMS4xLnRtMQ=="},
		{"dtm", "KwSysDpxcBU9FNhGkn2dCf-01"},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Global(c.gid)
			}
		})
	}
}
