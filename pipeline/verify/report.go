package verify

import (
	"slices"
	"strings"
	"time"
)

// Verdicts.
const (
	Equal     = "equal"
	Differs   = "differs"
	Undecided = "undecided" // nothing is known to differ, and not everything is known to be equal
)

// Report is what a comparison found. Its JSON form is what cdcctl verify -o json prints.
type Report struct {
	Subscription string         `json:"subscription"`
	Target       string         `json:"target"`
	Began        time.Time      `json:"began"`
	Seconds      float64        `json:"seconds"`
	Verdict      string         `json:"verdict"`
	SamplePct    float64        `json:"sample_percent"` // of the rows
	Tables       []*TableReport `json:"tables"`
}

// TableReport is about one table.
type TableReport struct {
	Schema  string   `json:"schema"`
	Table   string   `json:"table"`
	Key     []string `json:"key"` // empty: rows are known by all their values
	Verdict string   `json:"verdict"`
	// Problem says why the table cannot be equal, or cannot be compared.
	Problem string   `json:"problem,omitempty"`
	Copying bool     `json:"copying,omitempty"` // it is being copied, so it was not compared
	Notes   []string `json:"notes,omitempty"`

	RowsSource int64 `json:"rows_source"` // of all shards, as far as they were compared
	RowsTarget int64 `json:"rows_target"`

	Differing int64 `json:"differing"` // rows that both sides have
	Missing   int64 `json:"missing"`   // on the target
	Extra     int64 `json:"extra"`     // on the target
	Undecided int64 `json:"undecided"`
	Repaired  int64 `json:"repaired"`

	// Rows are the first ones that are not equal, and all that were repaired, or would be.
	Rows []RowReport `json:"rows,omitempty"`

	Seconds float64 `json:"seconds"` // that the first look took
}

// Kinds of a RowReport.
const (
	KindDiffers   = "differs"
	KindMissing   = "missing"
	KindExtra     = "extra"
	KindUndecided = "undecided"
)

// RowReport is about the rows of one key; of a table without a key, about the rows with the same values.
type RowReport struct {
	Key     []KeyValue `json:"key,omitempty"`
	Digest  string     `json:"digest,omitempty"` // md5 of the row as text, where there is no key
	Kind    string     `json:"kind"`
	Source  int        `json:"source"` // rows there
	Target  int        `json:"target"`
	Shards  []string   `json:"shards,omitempty"`  // that have it
	Columns []string   `json:"columns,omitempty"` // that differ
	Reason  string     `json:"reason,omitempty"`  // why it is undecided, or was not repaired
	Repair  string     `json:"repair,omitempty"`  // what was done, or would be
}

// KeyValue is a column of a key.
type KeyValue struct {
	Column string `json:"column"`
	Value  string `json:"value"`
}

// String names the row for a person.
func (r *RowReport) String() string {
	if r.Digest != "" {
		return "row with md5 " + r.Digest
	}
	var names, values []string
	for _, k := range r.Key {
		names, values = append(names, k.Column), append(values, k.Value)
	}
	return "(" + strings.Join(names, ", ") + ")=(" + strings.Join(values, ", ") + ")"
}

// rowReport describes a suspect that is not equal.
func (v *verifier) rowReport(s *suspect) RowReport {
	r := RowReport{Source: s.source.rows, Target: s.last.side.rows, Reason: s.reason, Repair: s.action}
	if s.plan.key == nil {
		r.Digest = s.id
	}
	for i, c := range s.plan.key {
		r.Key = append(r.Key, KeyValue{s.plan.columns[c], shorten(s.key[i].text)})
	}
	shards := slices.Clone(s.source.shards)
	slices.Sort(shards)
	for _, i := range slices.Compact(shards) {
		r.Shards = append(r.Shards, v.cfg.Subscription.Shards[i].Name)
	}
	switch {
	case s.answer == undecided:
		r.Kind = KindUndecided
	case r.Source > r.Target && (s.plan.key == nil || r.Target == 0):
		r.Kind = KindMissing
	case r.Source < r.Target && (s.plan.key == nil || r.Source == 0):
		r.Kind = KindExtra
	default:
		r.Kind = KindDiffers
	}
	if r.Source == 1 && r.Target == 1 {
		r.Columns = s.differing()
	}
	return r
}

// valueBytesMax is how much of a key is shown.
const valueBytesMax = 200

func shorten(text string) string {
	if len(text) <= valueBytesMax {
		return text
	}
	return strings.ToValidUTF8(text[:valueBytesMax], "") + "…"
}

// differing names the columns that differ.
func (s *suspect) differing() (names []string) {
	for i, c := range s.plan.columns {
		if s.source.columns[i] != s.last.side.columns[i] {
			names = append(names, c)
		}
	}
	return names
}

// count adds a suspect that is not equal to its table.
func (t *TableReport) count(r *RowReport, keys int) {
	less := int64(r.Source - r.Target)
	switch r.Kind {
	case KindUndecided:
		t.Undecided++
	case KindMissing:
		t.Missing += less
	case KindExtra:
		t.Extra -= less
	default:
		t.Differing++
	}
	if len(t.Rows) < keys || r.Repair != "" {
		t.Rows = append(t.Rows, *r)
	}
}

func (t *TableReport) judge() {
	switch {
	case t.Copying:
		t.Verdict = Undecided
	case t.Problem != "" || t.Differing+t.Missing+t.Extra > t.Repaired:
		t.Verdict = Differs
	case t.Undecided > 0:
		t.Verdict = Undecided
	default:
		t.Verdict = Equal
	}
}

func (r *Report) judge() {
	r.Verdict = Equal
	for _, t := range r.Tables {
		if t.Verdict == Differs || r.Verdict == Equal {
			r.Verdict = t.Verdict
		}
		if r.Verdict == Differs {
			return
		}
	}
}
