package feed

import (
	"bytes"
	"context"
	gosql "database/sql"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	_ "github.com/go-sql-driver/mysql"

	"shardcdc/output/sql"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/mysql"
	"shardcdc/test/harness/matrix"
)

// newMariaDB makes a database of MariaDB and empties those of other schemas.
func newMariaDB(t testing.TB, name string) *gosql.DB {
	t.Helper()
	db, err := gosql.Open("mysql", mariadb.DriverDSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for _, s := range []string{"DROP DATABASE IF EXISTS " + name, "CREATE DATABASE " + name, "DROP DATABASE IF EXISTS `s.ch.\"q`"} {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

// notInMySQL are tables that MySQL cannot have, as docs/mysql.md says: too many columns, none, keys that are too long (key_4 is numeric), names that differ in
// case only.
const notInMySQL = `('wide', 'no_columns', 'toast_key', 'key_4', 'Ünï.cödé 日本語')`

// textual turns columns of times into such of text, so that there is no value that MySQL does not have.
var textual = regexp.MustCompile("` (DATETIME\\(6\\)|DATE)")

// A number that MySQL does not have is none in a column of text either: it could not be compared with others.
var infinite = regexp.MustCompile(`\('(?:NaN|-?Infinity)'\)(::(?:numeric\(38,10\)|real|double precision))|'NaN'(::float8)`)

func finite(statements []string) []string {
	for i := range statements {
		statements[i] = infinite.ReplaceAllString(statements[i], "'5'$1$2")
	}
	return statements
}

// The type matrix in MariaDB: values that MySQL does not have stop the client, unless the column is one of text.
func TestMatrixMariaDB(t *testing.T) {
	const shards = 2
	m, err := matrix.New(t.Context(), server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, shards)
	w.source(m.DDL(matrix.Source))
	w.source("DROP PUBLICATION p", `DO $$ BEGIN EXECUTE (SELECT 'CREATE PUBLICATION p FOR TABLE ' || string_agg(CASE WHEN EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) AND relkind = 'r' THEN 'ONLY ' ELSE '' END || oid::regclass::text, ', ')
		|| ' WITH (publish_via_partition_root = true)' FROM pg_class c WHERE oid >= 16384 AND relkind IN ('r', 'p') AND NOT relispartition AND relname NOT IN `+notInMySQL+`); END $$`)
	const name = "matrix"
	db := newMariaDB(t, name)
	e := sql.New(sql.Config{Shards: w.names(), Options: format.SQLOptions{Dialect: format.MySQL}})
	stop := regexp.MustCompile(`(?m)^(-- STOP: .*|SIGNAL SQLSTATE .*)\n`)
	relations := map[string]*pipeline.Relation{}
	feed := func(distributed bool) {
		t.Helper()
		txs := w.capture()
		if distributed {
			txs = together(txs)
		}
		var create strings.Builder
		for _, tx := range txs {
			for _, f := range tx.Fragments {
				for _, use := range f.Relations {
					r := use.Relation
					if relations[r.String()] == nil {
						sql, err := mysql.AppendCreateTable(nil, r)
						if err != nil {
							t.Fatal(err)
						}
						if r.Namespace != "public" {
							fmt.Fprintf(&create, "CREATE DATABASE IF NOT EXISTS %s;", mysql.AppendName(nil, r.Namespace))
						}
						if r.Name != "composite" { // whose key is as long as can be
							sql = textual.ReplaceAll(sql, []byte("` VARCHAR(120)"))
						}
						create.WriteString(string(sql) + ";\n")
					}
					relations[r.String()] = r
				}
			}
		}
		feeds(t, mysqlClient(t, name, create.String()))
		file := w.encode(e, format.MySQL, txs)
		if said := mysqlClient(t, name, file); !strings.Contains(said, "ERROR 1644 (45000)") || !strings.Contains(said, "cannot be kept in MySQL") {
			t.Fatalf("values that MySQL does not have did not stop the client: %s", said)
		}
		file = stop.ReplaceAllString(file, "")
		feeds(t, mysqlClient(t, name, file))
		for _, key := range slices.Sorted(maps.Keys(relations)) {
			sameInMariaDB(t, w, db, name, relations[key])
		}
	}
	for i, s := range w.shards {
		s.exec("BEGIN")
		s.exec(finite(m.Fill(i, shards))...)
		s.exec("COMMIT")
	}
	feed(true)
	for round := 1; round <= rounds; round++ {
		for i, s := range w.shards {
			s.exec("BEGIN")
			s.exec(finite(m.Change(i, shards, round))...)
			s.exec("COMMIT")
		}
		feed(round%2 == 0)
	}
	if len(relations) < 90 {
		t.Errorf("%d tables only", len(relations))
	}
}

// sameInMariaDB compares a table's rows with those of all shards.
func sameInMariaDB(t *testing.T, w *world, db *gosql.DB, name string, r *pipeline.Relation) {
	t.Helper()
	var pg, my []string
	for _, c := range r.Columns {
		pg, my = append(pg, pgName(c.Name)), append(my, string(mysql.AppendName(nil, c.Name)))
	}
	rows := map[string]int{}
	for _, s := range w.shards {
		only := s.text("SELECT CASE relkind WHEN 'p' THEN '' ELSE 'ONLY' END FROM pg_class WHERE oid = '" + strings.ReplaceAll(pgName(r.Namespace)+"."+pgName(r.Name), "'", "''") + "'::regclass")
		for _, row := range s.rows(fmt.Sprintf("SELECT %s FROM %s %s.%s", strings.Join(pg, ", "), strings.TrimSpace(only), pgName(r.Namespace), pgName(r.Name))) {
			rows[fmt.Sprintf("%q", meant(r, row, fromPostgreSQL))]++
		}
	}
	database, table := mysql.Table(r.Namespace, r.Name)
	if database == "" {
		database = name
	}
	for _, row := range query(t, db, fmt.Sprintf("SELECT %s FROM %s.%s", strings.Join(my, ", "), mysql.AppendName(nil, database), mysql.AppendName(nil, table))) {
		rows[fmt.Sprintf("%q", meant(r, row, fromMariaDB))]--
	}
	for row, n := range rows {
		if n != 0 {
			t.Errorf("%s: the shards have %d more of %.2000s", r, n, row)
		}
	}
}

func pgName(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

func query(t *testing.T, db *gosql.DB, sql string) (all [][][]byte) {
	t.Helper()
	rows, err := db.QueryContext(context.Background(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		raw := make([]gosql.RawBytes, len(columns))
		into := make([]any, len(columns))
		for i := range raw {
			into[i] = &raw[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		var row [][]byte
		for _, v := range raw {
			row = append(row, bytes.Clone(v))
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// meant brings a row of either side to one form, as docs/mysql.md says what a value becomes; it knows nothing of package mysql.
func meant(r *pipeline.Relation, row [][]byte, read func(typ string, modifier int32, v string) string) (values []string) {
	for i, v := range row {
		if v == nil {
			values = append(values, "NULL")
			continue
		}
		values = append(values, "="+read(typeOf(r, i), r.Columns[i].Modifier, string(v)))
	}
	return values
}

// types are those whose values look different in MySQL, by OID.
var types = map[uint32]string{
	16: "bool", 17: "bytea", 700: "float", 701: "float", 790: "money", 1042: "bpchar", 1082: "time", 1083: "time", 1114: "time", 1184: "timestamptz", 1560: "bit",
}

func typeOf(r *pipeline.Relation, i int) string {
	typ := r.Columns[i].Type
	if t, ok := r.TypeName(typ); ok && strings.HasPrefix(t.Name, "_") {
		return "array"
	}
	if typ >= 1000 && typ <= 1041 || typ == 1115 || typ == 1182 || typ == 1183 || typ == 1185 || typ == 1187 || typ == 1231 || typ == 1270 ||
		slices.Contains([]uint32{143, 199, 271, 629, 651, 719, 775, 791, 1561, 1563, 2201, 2207, 2208, 2209, 2210, 2211, 2949, 2951, 3221, 3643, 3645, 3735, 3770, 3807, 3905, 3907, 3909, 3911, 3913, 3927, 4073, 4090, 4097, 4192, 5039, 6150, 6151, 6152, 6153, 6155, 6157, 1263, 1034, 1042 + 100000}, typ) {
		return "array"
	}
	return types[typ]
}

func fromPostgreSQL(typ string, _ int32, v string) string {
	switch typ {
	case "bool":
		return map[string]string{"t": "1", "f": "0"}[v]
	case "bytea":
		return v[2:]
	case "float":
		return float(v)
	case "money":
		return strings.NewReplacer("$", "", ",", "").Replace(v)
	case "bpchar":
		return strings.TrimRight(v, " ")
	case "time":
		return places(v)
	case "timestamptz":
		if rest, bc := strings.CutSuffix(v, " BC"); bc {
			return places(strings.TrimSuffix(rest, "+00") + "+00 BC")
		}
		if strings.Contains(v, "inf") || len(v) > 5 && v[4] != '-' { // no year of MySQL's: as it was
			return v
		}
		return places(strings.TrimSuffix(v, "+00"))
	case "array":
		return "array"
	}
	return v
}

func fromMariaDB(typ string, modifier int32, v string) string {
	switch typ {
	case "bytea":
		return hex.EncodeToString([]byte(v))
	case "float":
		return float(v)
	case "time", "timestamptz":
		return places(v)
	case "bit":
		n := 0
		for _, c := range []byte(v) {
			n = n<<8 | int(c)
		}
		return fmt.Sprintf("%0*b", modifier, n)
	case "array":
		return "array"
	}
	return v
}

func float(v string) string {
	f, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return v
	}
	return strconv.FormatFloat(f+0, 'g', -1, 64)
}

// places leaves out the zeros at the end of a fraction.
func places(v string) string {
	if strings.Contains(v, ".") {
		v = strings.TrimRight(strings.TrimRight(v, "0"), ".")
	}
	return v
}
