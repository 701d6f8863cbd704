package sim

import "testing"

// TestKnownWorlds runs worlds that once found something. The first part are faults that joiner/merge had, the
// second the worlds that tell the rarer mutants from it.
func TestKnownWorlds(t *testing.T) {
	for _, k := range []struct {
		seed uint64
		why  string
	}{
		{9, "undecided transactions alone exceed BytesMax: every shard must be admitted"},
		{272, "a checkpoint with open fragments and watermark 0"},
		{414, "an empty transaction is decided on a shard that is not read again, its PREPARE is sent again"},
		{90, "two users of one gid meet in one transaction"},
		{4855, "a fragment of a decided transaction joins an older rolled back one first"},

		{60, "a restart must not give CSNs below the watermark"},
		{67, "PREPAREs that are in the stream are sent again"},
		{37, "one-phase commits that are in the stream are sent again"},
		{38, "second phases of fragments that left before the restart"},
		{30, "times of another cluster"},
		{13, "evidence by date, with clocks as far apart as allowed"},
	} {
		t.Run(k.why, func(t *testing.T) { runWorld(t, OptionsOf(k.seed)) })
	}
}
