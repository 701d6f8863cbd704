package mysql_test

import (
	"errors"
	"strings"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mysql"
)

// relation has columns with these types; types of the user's own have an OID from 20000 on.
func relation(identity byte, columns ...pipeline.Column) *pipeline.Relation {
	return &pipeline.Relation{
		Namespace: "public", Name: "t", Identity: identity, Columns: columns,
		Types: []pipeline.Type{{OID: 20000, Namespace: "public", Name: "mood"}, {OID: 20001, Namespace: "pg_catalog", Name: "int4"}, {OID: 20002, Namespace: "pg_catalog", Name: "_float8"}, {OID: 20003, Namespace: "public", Name: "_mood"}},
	}
}

func kindOf(oid uint32, modifier int32) mysql.Kind {
	return mysql.KindOf(relation('d', pipeline.Column{Name: "c", Type: oid, Modifier: modifier}), 0)
}

func numeric(precision, scale int32) int32 { return precision<<16 + scale&0x7ff + 4 }

var literals = []struct {
	oid      uint32
	modifier int32
	text     string
	want     string // or, after a !, a part of the error
	column   string // type of the column
}{
	{16, -1, "t", "1", "TINYINT(1)"},
	{16, -1, "f", "0", "TINYINT(1)"},
	{16, -1, "x", "!not in the form", "TINYINT(1)"},
	{21, -1, "-32768", "-32768", "SMALLINT"},
	{20, -1, "-9223372036854775808", "-9223372036854775808", "BIGINT"},
	{20, -1, "1; DROP TABLE t", "!not in the form", "BIGINT"},
	{20001, -1, "5", "5", "INT"},
	{26, -1, "4294967295", "4294967295", "INT UNSIGNED"},
	{5069, -1, "18446744073709551615", "18446744073709551615", "BIGINT UNSIGNED"},
	{700, -1, "3.4028235e+38", "3.4028235e+38", "DOUBLE"},
	{701, -1, "0.30000000000000004", "0.30000000000000004e0", "DOUBLE"},
	{701, -1, "-0", "-0e0", "DOUBLE"},
	{701, -1, "NaN", "!neither NaN nor infinity", "DOUBLE"},
	{701, -1, "-Infinity", "!neither NaN nor infinity", "DOUBLE"},
	{701, -1, "1e5x", "!not in the form", "DOUBLE"},
	{1700, -1, "100.00", "'100.00'", "LONGTEXT"},
	{1700, -1, "NaN", "'NaN'", "LONGTEXT"},
	{1700, numeric(38, 10), "9999999999999999999999999999.9999999999", "9999999999999999999999999999.9999999999", "DECIMAL(38,10)"},
	{1700, numeric(5, -2), "12300", "'12300'", "LONGTEXT"},
	{1700, numeric(3, 5), "0.00999", "'0.00999'", "LONGTEXT"},
	{1700, numeric(66, 0), "1", "'1'", "LONGTEXT"},
	{1700, numeric(10, 2), "NaN", "!neither NaN nor infinity", "DECIMAL(10,2)"},
	{790, -1, "-$92,233,720,368,547,758.08", "-92233720368547758.08", "DECIMAL(19,2)"},
	{790, -1, "12 €", "!not in the form", "DECIMAL(19,2)"},
	{25, -1, "it's", "'it''s'", "LONGTEXT"},
	{25, -1, "", "''", "LONGTEXT"},
	{25, -1, "a\nb\tc", "_utf8mb4 X'610a620963'", "LONGTEXT"},
	{25, -1, "a\tb", "'a\tb'", "LONGTEXT"},
	{25, -1, `a\b`, "_utf8mb4 X'615c62'", "LONGTEXT"},
	{25, -1, "a\r\nb", "_utf8mb4 X'610d0a62'", "LONGTEXT"},
	{25, -1, "\x01", "_utf8mb4 X'01'", "LONGTEXT"},
	{25, -1, "😀'", "_utf8mb4'😀'''", "LONGTEXT"},
	{25, -1, "\xff", "!no UTF-8", "LONGTEXT"},
	{1043, 24, "x", "'x'", "VARCHAR(20)"},
	{1043, 1004, "x", "'x'", "LONGTEXT"},
	{1042, 9, "ab   ", "'ab'", "VARCHAR(5)"},
	{20000, -1, "happy", "'happy'", "LONGTEXT"},
	{17, -1, `\x`, "X''", "LONGBLOB"},
	{17, -1, `\x00ff`, "X'00ff'", "LONGBLOB"},
	{17, -1, `\000`, "!not in the form", "LONGBLOB"},
	{17, -1, `\x0'`, "!not in the form", "LONGBLOB"},
	{1560, 3, "101", "b'101'", "BIT(3)"},
	{1560, 65, "101", "'101'", "VARCHAR(65)"},
	{1562, -1, "", "''", "LONGTEXT"},
	{2950, -1, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin"},
	{3802, -1, `{"a": "x\"y"}`, `_utf8mb4 X'7b2261223a2022785c2279227d'`, "LONGTEXT"},
	{1082, -1, "2024-02-29", "'2024-02-29'", "DATE"},
	{1082, -1, "0001-01-01", "'0001-01-01'", "DATE"},
	{1082, -1, "infinity", "!no infinite times", "DATE"},
	{1082, -1, "4714-11-24 BC", "!years are 1 to 9999", "DATE"},
	{1082, -1, "5874897-12-31", "!years are 1 to 9999", "DATE"},
	{1083, -1, "24:00:00", "'24:00:00'", "TIME(6)"},
	{1083, -1, "23:59:59.999999", "'23:59:59.999999'", "TIME(6)"},
	{1114, -1, "2024-01-01 00:00:00.5", "'2024-01-01 00:00:00.5'", "DATETIME(6)"},
	{1114, -1, "2024-01-01 00:00:00.5+00", "!not in the form", "DATETIME(6)"},
	{1114, -1, "0044-03-15 12:00:00 BC", "!years are 1 to 9999", "DATETIME(6)"},
	{1184, -1, "2024-03-10 07:30:00+00", "'2024-03-10 07:30:00'", "DATETIME(6)"},
	{1184, -1, "2024-03-10 07:30:00+01", "!not in UTC", "DATETIME(6)"},
	{1184, -1, "-infinity", "!no infinite times", "DATETIME(6)"},
	{1184, -1, "12345-01-01 00:00:00+00", "!years are 1 to 9999", "DATETIME(6)"},
	{1186, -1, "1 mon -1 days +00:00:01", "'1 mon -1 days +00:00:01'", "VARCHAR(127)"},
	{1007, -1, "{}", "'[]'", "LONGTEXT"},
	{1007, -1, "{{1,NULL},{3,4}}", "'[[1,null],[3,4]]'", "LONGTEXT"},
	{1007, -1, "[0:2]={1,2,3}", `'{"bounds":"[0:2]","values":[1,2,3]}'`, "LONGTEXT"},
	{1016, -1, "{9007199254740991,9007199254740993}", `'[9007199254740991,"9007199254740993"]'`, "LONGTEXT"},
	{20002, -1, "{1.5,NaN}", `'[1.5,"NaN"]'`, "LONGTEXT"},
	{1231, -1, "{1.10}", `'["1.10"]'`, "LONGTEXT"},
	{1000, -1, "{t,f,NULL}", `'[true,false,null]'`, "LONGTEXT"},
	{1009, -1, `{"a\"b",NULL,"NULL","it's"}`, `_utf8mb4 X'` + hexOf(`["a\"b",null,"NULL","it's"]`) + `'`, "LONGTEXT"},
	{1020, -1, "{(1,1),(0,0);(2,2),(0,0)}", `'["(1,1),(0,0)","(2,2),(0,0)"]'`, "LONGTEXT"},
	{1007, -1, "{1", "!not in the form", "LONGTEXT"},
	{20003, -1, "{happy}", "'{happy}'", "LONGTEXT"},
	{3904, -1, "[1,11)", "'[1,11)'", "LONGTEXT"},
}

func hexOf(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteString(string("0123456789abcdef"[s[i]>>4]) + string("0123456789abcdef"[s[i]&15]))
	}
	return b.String()
}

func TestLiterals(t *testing.T) {
	for _, c := range literals {
		kind := kindOf(c.oid, c.modifier)
		if got := kind.ColumnType(); got != c.column {
			t.Errorf("type %d: column %s, want %s", c.oid, got, c.column)
		}
		got, err := kind.AppendLiteral([]byte("= "), []byte(c.text))
		if part, fails := strings.CutPrefix(c.want, "!"); fails {
			var unfit *mysql.Unfit
			if !errors.As(err, &unfit) || !strings.Contains(err.Error(), part) || string(got) != "= " {
				t.Errorf("%s %q: %q, %v, want an error with %q", kind.Name(), c.text, got, err, part)
			}
			continue
		}
		if err != nil || string(got) != "= "+c.want {
			t.Errorf("%s %q: %s, %v, want %s", kind.Name(), c.text, got, err, c.want)
		}
	}
}

// A column that is there may be another than the one that CREATE TABLE would make.
func TestIn(t *testing.T) {
	for _, c := range []struct {
		oid    uint32
		column mysql.Column
		text   string
		want   string
	}{
		{1184, mysql.Column{DataType: "varchar", Places: -1}, "infinity", "'infinity'"},
		{701, mysql.Column{DataType: "longtext", Places: -1}, "NaN", "'NaN'"},
		{23, mysql.Column{DataType: "varchar", Places: -1}, "5", "'5'"},
		{17, mysql.Column{DataType: "text", Places: -1}, `\x00`, "_utf8mb4 X'5c783030'"},
		{1700, mysql.Column{DataType: "decimal", Places: 2}, "1.10", "1.10"},
		{1700, mysql.Column{DataType: "decimal", Places: 2}, "1.100", "1.100"},
		{1700, mysql.Column{DataType: "decimal", Places: 2}, "1.101", "!2 digits behind the point"},
		{1700, mysql.Column{DataType: "decimal", Places: 2}, "NaN", "!neither NaN"},
		{1700, mysql.Column{DataType: "decimal", Places: 0}, strings.Repeat("9", 66), "!65 digits"},
		{1114, mysql.Column{DataType: "datetime", Places: 0}, "2024-01-01 00:00:00.5", "!0 digits behind the point"},
		{1114, mysql.Column{DataType: "datetime", Places: 0}, "2024-01-01 00:00:00", "'2024-01-01 00:00:00'"},
		{1007, mysql.Column{DataType: "longtext", Places: -1}, "{1}", "'[1]'"},
		{23, mysql.Column{DataType: "int", Places: 0}, "5", "5"},
	} {
		kind := kindOf(c.oid, -1).In(c.column)
		got, err := kind.AppendLiteral(nil, []byte(c.text))
		if part, fails := strings.CutPrefix(c.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s %s: %s, %v, want an error with %q", c.column.DataType, c.text, got, err, part)
			}
			continue
		}
		if err != nil || string(got) != c.want {
			t.Errorf("%s %s: %s, %v, want %s", c.column.DataType, c.text, got, err, c.want)
		}
	}
}

func TestCreateTable(t *testing.T) {
	const end = "\n) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100202 COLLATE utf8mb4_nopad_bin */"
	for _, c := range []struct {
		r    *pipeline.Relation
		want string
	}{
		{
			relation('d', pipeline.Column{Name: "id", Type: 20, Modifier: -1, Key: true}, pipeline.Column{Name: "a`b", Type: 25, Modifier: -1}),
			"CREATE TABLE IF NOT EXISTS `t` (\n  `id` BIGINT NOT NULL,\n  `a``b` LONGTEXT NULL,\n  PRIMARY KEY (`id`)",
		},
		{
			relation('d', pipeline.Column{Name: "a", Type: 25, Modifier: -1, Key: true}, pipeline.Column{Name: "b", Type: 17, Modifier: -1, Key: true}, pipeline.Column{Name: "c", Type: 1043, Modifier: 14, Key: true}),
			"CREATE TABLE IF NOT EXISTS `t` (\n  `a` VARCHAR(379) NOT NULL,\n  `b` VARBINARY(1516) NOT NULL,\n  `c` VARCHAR(10) NOT NULL,\n  PRIMARY KEY (`a`, `b`, `c`)",
		},
		{
			relation('f', pipeline.Column{Name: "a", Type: 23, Modifier: -1, Key: true}),
			"CREATE TABLE IF NOT EXISTS `t` (\n  `a` INT NULL",
		},
	} {
		got, err := mysql.AppendCreateTable(nil, c.r)
		want := c.want + end
		if c.r.Identity != 'f' {
			want = c.want + ")" + end
		}
		if err != nil || string(got) != strings.Replace(want, "))\n", ")\n", 1) {
			t.Errorf("%v\n%s\nwant\n%s", err, got, want)
		}
	}
	if _, err := mysql.AppendCreateTable(nil, relation('d')); err == nil || !strings.Contains(err.Error(), "Try: ") {
		t.Error(err)
	}
	keys := make([]pipeline.Column, 17)
	for i := range keys {
		keys[i] = pipeline.Column{Name: "k", Type: 23, Key: true}
	}
	if _, err := mysql.AppendCreateTable(nil, relation('d', keys...)); err == nil || !strings.Contains(err.Error(), "Try: ") {
		t.Error(err)
	}
	other := relation('f', pipeline.Column{Name: "a", Type: 23})
	other.Namespace = "sales"
	if got, _ := mysql.AppendCreateTable(nil, other); !strings.Contains(string(got), "EXISTS `sales`.`t` (") {
		t.Errorf("%s", got)
	}
}

// FuzzLiterals: whatever a value is, its literal is one literal.
func FuzzLiterals(f *testing.F) {
	for _, c := range literals {
		f.Add(c.oid, c.text)
	}
	f.Fuzz(func(t *testing.T, oid uint32, text string) {
		got, err := kindOf(oid, -1).AppendLiteral(nil, []byte(text))
		if err != nil {
			return
		}
		inside := strings.TrimPrefix(strings.TrimPrefix(string(got), "_utf8mb4"), " ")
		if rest, ok := strings.CutPrefix(strings.TrimLeft(inside, "Xb"), "'"); ok {
			rest, ok = strings.CutSuffix(rest, "'")
			if rest = strings.ReplaceAll(rest, "''", ""); !ok || strings.ContainsAny(rest, "'\\\r\x00") {
				t.Errorf("%q: %s", text, got)
			}
		} else if strings.Trim(inside, "0123456789.e+-") != "" {
			t.Errorf("%q: %s", text, got)
		}
	})
}
