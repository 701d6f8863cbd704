package sql

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/moves/movestest"
)

// TestMoves: the statements of random transactions in which rows move between shards find their rows, and meet none.
func TestMoves(t *testing.T) {
	for _, dialect := range []string{format.PostgreSQL, format.MySQL} {
		for _, idempotent := range []bool{false, true} {
			seed := rand.Uint64()
			r := rand.New(rand.NewPCG(seed, 0))
			e := New(Config{Options: format.SQLOptions{Dialect: dialect, Idempotent: idempotent}, Shards: []string{"a", "b", "c"}})
			for n := range 500 {
				w := movestest.New(r, movestest.Options{Identity: 'd', Again: true, Unchanged: true, Truncate: n%4 == 0})
				if len(w.Tx.Fragments) == 0 {
					continue
				}
				payloads, err := e.Encode(&pipeline.Batch{Transactions: []*pipeline.Transaction{w.Tx}})
				if err != nil {
					t.Fatal(err)
				}
				if err := run(w, string(payloads[0].Data), idempotent); err != nil {
					t.Fatalf("seed %d, world %d, %s, idempotent %t: %v", seed, n, dialect, idempotent, err)
				}
			}
		}
	}
}

var (
	insertLine = regexp.MustCompile(`^INSERT INTO \S+ \(.*\)( OVERRIDING SYSTEM VALUE)? VALUES \((\d+), '(v\d+)', '(v\d+)'\)( ON .*)?;$`)
	updateLine = regexp.MustCompile(`^UPDATE \S+ SET (.*) WHERE .id. = (\d+);$`)
	deleteLine = regexp.MustCompile(`^DELETE FROM \S+( WHERE .id. = (\d+).*)?;$`)
	setColumn  = regexp.MustCompile(`.(id|v|big). = '?(v?\d+)'?`)
)

// run is a model of a table with a primary key.
func run(w *movestest.World, script string, idempotent bool) error {
	rows := maps.Clone(w.Before)
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if err := runLine(rows, line, idempotent); err != nil {
			return fmt.Errorf("%w\n%s\n%s", err, line, script)
		}
	}
	for _, all := range []map[int]movestest.Row{rows, w.After} {
		for id, x := range all {
			x.Shard = 0 // a statement does not say it
			all[id] = x
		}
	}
	if err := w.Check(rows); err != nil {
		return fmt.Errorf("%w\n%s", err, script)
	}
	return nil
}

func runLine(rows map[int]movestest.Row, line string, idempotent bool) error {
	if m := insertLine.FindStringSubmatch(line); m != nil {
		id, _ := strconv.Atoi(m[2])
		if _, there := rows[id]; there && m[5] == "" {
			return fmt.Errorf("%d is there", id)
		}
		rows[id] = movestest.Row{V: m[3], Big: m[4]}
		return nil
	}
	if m := updateLine.FindStringSubmatch(line); m != nil {
		id, _ := strconv.Atoi(m[2])
		x, there := rows[id]
		if !there {
			return fmt.Errorf("there is no %d", id)
		}
		delete(rows, id)
		for _, set := range setColumn.FindAllStringSubmatch(m[1], -1) {
			switch set[1] {
			case "id":
				id, _ = strconv.Atoi(set[2])
			case "v":
				x.V = set[2]
			case "big":
				x.Big = set[2]
			}
		}
		if _, there := rows[id]; there {
			return fmt.Errorf("%d is there", id)
		}
		rows[id] = x
		return nil
	}
	if m := deleteLine.FindStringSubmatch(line); m != nil && m[1] != "" {
		id, _ := strconv.Atoi(m[2])
		if _, there := rows[id]; !there && !idempotent {
			return fmt.Errorf("there is no %d", id)
		}
		delete(rows, id)
		return nil
	} else if m != nil || strings.HasPrefix(line, "TRUNCATE") {
		clear(rows)
		return nil
	}
	for _, other := range []string{"--", "BEGIN", "COMMIT", "SET ", "START"} {
		if strings.HasPrefix(line, other) {
			return nil
		}
	}
	return fmt.Errorf("what is this?")
}
