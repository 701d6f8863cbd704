package apply

import (
	"time"

	"shardcdc/pipeline"
)

// Skip says that one transaction is not to be applied on a target. Whoever asks for it makes sure that the worker is
// stuck there; the worker honours what it is given, and ignores what is behind the progress.
type Skip struct {
	CSN    pipeline.CSN
	Reason string
	By     string    // who asked
	At     time.Time // when
}

// Skipped is a transaction that was left out on a target.
type Skipped struct {
	Skip
	// Changes says what is missing, for people: the kinds of changes of each table of the source, with their numbers.
	Changes string
	// Passed is when the progress moved over it.
	Passed time.Time
}
