package sim

import (
	"strings"
	"testing"
)

// The oracle passes a merger that knows everything.
func TestOraclePassesTruth(t *testing.T) {
	for seed := range uint64(500) {
		w := NewWorld(OptionsOf(seed))
		if _, fault := Run(w, newOmniscient(""), nil); fault != "" {
			var trace strings.Builder
			Run(w, newOmniscient(""), &trace)
			t.Fatalf("seed %d: %s\n%s\n%s\n%s", seed, fault, w.Options, w, &trace)
		}
	}
}

// The oracle fails each way of being wrong, and says what it is.
func TestOracleFailsFaults(t *testing.T) {
	for spoil, want := range map[string]string{
		"order by end":     "ordered: ",
		"order by clock":   "ordered: ",
		"twice":            "", // the CSN is used twice, too
		"skip":             "",
		"stop":             "complete: ",
		"lose fragment":    "atomic: ",
		"emit undecided":   "", // this alone is seen by the world only as a fault of positions, if at all
		"emit rolled back": "atomic: ",
		"emit incomplete":  "atomic: ",
		"forget prepared":  "safe: ",
		"forget all":       "safe: ",
		"no heartbeat":     "stuck: ",
		"confirm received": "safe: ",
		"confirm through":  "safe: ",
		"confirm taken":    "safe: ",
	} {
		t.Run(strings.ReplaceAll(spoil, " ", "-"), func(t *testing.T) {
			found := map[string]int{}
			for seed := range uint64(400) {
				_, fault := Run(NewWorld(OptionsOf(seed)), newOmniscient(spoil), nil)
				kind, _, _ := strings.Cut(fault, ":")
				found[kind]++
			}
			delete(found, "")
			t.Logf("%v", found)
			kind, _, _ := strings.Cut(want, ":")
			if len(found) == 0 || kind != "" && found[kind] == 0 {
				t.Errorf("nothing found in 400 worlds, want %q", want)
			}
		})
	}
}
