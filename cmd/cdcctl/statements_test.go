package main

import (
	"strings"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/reading"
)

// Statements are shown whole and with the session's settings in front, once, or not at all.
func TestStatements(t *testing.T) {
	sub := &control.Subscription{Name: "bank", Format: format.Internal, Shards: []control.Shard{{Name: "a"}}}
	show, err := newStatements(format.SQLOptions{}, sub)
	if err != nil {
		t.Fatal(err)
	}
	tx := &reading.Transaction{Head: reading.Head{CSN: 7, Previous: 6}, Rows: &pipeline.Transaction{CSN: 7, Fragments: []*pipeline.Fragment{{}}}}
	for i, want := range []string{"SET client_encoding = 'UTF8';\n", "-- csn 7 previous 6 "} {
		text, err := show(tx)
		if err != nil || !strings.HasPrefix(string(text), want) || !strings.HasSuffix(string(text), "COMMIT;\n-- end 7\n") {
			t.Errorf("%d: %s, %v", i, text, err)
		}
	}
	if _, err := show(&reading.Transaction{Head: reading.Head{CSN: 8, Bytes: 99 << 20, TooLarge: true}}); err == nil || !strings.Contains(err.Error(), "csn 8: 103809024 bytes are too large") {
		t.Error(err)
	}
	sub.Format, sub.SQL = format.SQL, format.SQLOptions{Dialect: format.MySQL}
	if show, err = newStatements(format.SQLOptions{}, sub); err != nil {
		t.Fatal(err)
	}
	text, err := show(&reading.Transaction{SQL: []byte("BEGIN;\n")})
	if err != nil || !strings.Contains(string(text), "SET NAMES utf8mb4;\n") || !strings.HasSuffix(string(text), "\nBEGIN;\n") {
		t.Errorf("%s, %v", text, err)
	}
	for of, o := range map[string]format.SQLOptions{format.SQL: {Idempotent: true}, format.JSON: {}} {
		sub.Format = of
		if _, err := newStatements(o, sub); err == nil || !strings.Contains(err.Error(), "Try: ") {
			t.Errorf("%s: %v", of, err)
		}
	}
}
