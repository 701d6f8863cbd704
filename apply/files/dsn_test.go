package files_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shardcdc/apply/files"
	"shardcdc/pipeline/format"
)

func TestParseDSN(t *testing.T) {
	for text, want := range map[string]files.Options{
		"file:///var/lib/bank": {
			Folder: "/var/lib/bank", Format: format.Format{Name: format.SQL, SQL: format.SQLOptions{Dialect: format.PostgreSQL}}, RotateBytes: 256 << 20, RotateEvery: time.Hour,
		},
		"FILE:///a%20b/?dialect=mysql&idempotent=true&rotate_bytes=1GB&rotate_every=5m": {
			Folder: "/a b", Format: format.Format{Name: format.SQL, SQL: format.SQLOptions{Dialect: format.MySQL, Idempotent: true}}, RotateBytes: 1e9, RotateEvery: 5 * time.Minute,
		},
		"file:/x?format=json&types=1&fill_unchanged=true": {
			Folder: "/x", Format: format.Format{Name: format.JSON, JSON: format.JSONOptions{Layout: format.ByTransaction, Flavour: format.Native, Types: true, FillUnchanged: true}},
			RotateBytes: 256 << 20, RotateEvery: time.Hour,
		},
	} {
		got, err := files.ParseDSN(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	}
	for text, want := range map[string]string{
		"file://host/x":                   "is no URL of a folder on the worker's machine. Try: file:///var/lib/bank?format=sql",
		"file:x":                          "is no URL of a folder",
		"postgres://h/d":                  "is no URL of a folder",
		"file:///":                        "names no folder",
		"file:///x?format=xml":            `format "xml" is unknown, want sql or json`,
		"file:///x?dialect=oracle":        `dialect "oracle" is unknown`,
		"file:///x?format=json&dialect=a": "options that are unknown, or of another format: dialect",
		"file:///x?format=sql&format=sql": "gives format twice",
		"file:///x?idempotent=maybe":      "idempotent: want true or false",
		"file:///x?rotate_bytes=0":        `rotate_bytes "0": want a size like 256MiB`,
		"file:///x?rotate_every=-1s":      `rotate_every "-1s": want a duration like 1h`,
		"file:///x?%zz":                   "its options cannot be read",
	} {
		if _, err := files.ParseDSN(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
