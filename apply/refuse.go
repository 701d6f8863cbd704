package apply

import (
	"fmt"
	"strings"
)

// What every kind of target refuses in the same words.

// HoldRows is about tables that are to be copied and hold rows on the target; nil: there are none. merge: they were to be kept, and
// no key says which copied row takes the place of which. empty is what a person does with a table.
func HoldRows(tables []string, merge bool, empty string) error {
	if len(tables) == 0 {
		return nil
	}
	b := &Blocked{
		Table: tables[0], Problem: "holds rows on the target already",
		Try: empty + ", or create the subscription with --if-target-has-rows truncate or merge; it goes on by itself",
	}
	if merge {
		b.Problem += ", and has no key by which copied rows could take their place"
		b.Try = empty + "; it goes on by itself"
	}
	if more := tables[1:]; len(more) > 0 {
		b.Problem += fmt.Sprintf("; so do %d more: %s", len(more), strings.Join(more[:min(len(more), 5)], ", "))
	}
	return b
}

// EmptiedInPart is about a table that some shards have truncated and others have not.
func EmptiedInPart(table, subscription string, ran, shards int) error {
	return &Blocked{
		Table: table,
		Problem: fmt.Sprintf("TRUNCATE ran on %d of %d shards; on the target the rows of all shards are in one table, and all of them would go",
			ran, shards),
		Try: "cdcctl alter-subscription " + subscription + " --truncate apply (empty the table), or --truncate ignore (keep it, then DELETE that shard's rows by hand)",
	}
}
