package main

import (
	"strings"
	"testing"
)

// A target that no worker could use is refused where it is typed.
func TestImportTargets(t *testing.T) {
	for text, want := range map[string]string{
		"r=nonsense":                      "cannot be used",
		"r=mysql://u@h:3306":              "--target r: ",
		"r=file://":                       "--target r: ",
		"r=":                              "the DSN is empty",
		"":                                "target1: the DSN is empty",
		"r=postgres://u:secret@h/d":       "password in clear",
		"r=postgres://u@h/d":              "",
		"r=${REPLICA}":                    "",
		"mysql://u@h:3306/d":              "",
		"f=file:///var/lib/folder":        "",
		"postgres://u@h:port/d":           "invalid port",
		"r=host=h user=u dbname=d port=1": "",
	} {
		targets, err := importTargets([]string{text})
		switch {
		case want == "" && (err != nil || len(targets) != 1):
			t.Errorf("%q: %v %v", text, targets, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Try: ") || strings.Contains(err.Error(), "secret")):
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
