package demo

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"shardcdc/pipeline/bank"
)

// A demo that found a difference, or looked at nothing, fails.
func TestProve(t *testing.T) {
	for _, test := range []struct {
		diff bank.Difference
		want string
	}{
		{bank.Difference{Rows: 10, Count: 2, Examples: []string{"accounts 7 is missing"}}, "2 differences"},
		{bank.Difference{}, "nothing was proved: 0 rows"},
		{bank.Difference{Rows: 10}, "nothing was proved: 10 rows, 0 markers"},
	} {
		var out bytes.Buffer
		d := &demo{Options: Options{Out: &out, Log: slog.New(slog.DiscardHandler)}, screen: newScreen(&out), bank: bank.New(bank.Config{Shards: []string{""}})}
		d.watch = d.bank.Watch("")
		err := d.prove(test.diff)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.diff, err, test.want)
		}
		for _, e := range test.diff.Examples {
			if !strings.Contains(out.String(), e) {
				t.Errorf("the output does not name %q:\n%s", e, out.String())
			}
		}
		if strings.Contains(out.String(), "0 differences: ") {
			t.Errorf("the output claims success:\n%s", out.String())
		}
	}
}

// Progress overwrites itself on a terminal only; a step never lands on a progress line.
func TestScreen(t *testing.T) {
	for _, test := range []struct {
		terminal bool
		want     string
	}{
		{false, "one\ntwo\nfault         x\n"},
		{true, "\r\x1b[Kone\r\x1b[Ktwo\nfault         x\n"},
	} {
		var out bytes.Buffer
		s := newScreen(&out)
		s.terminal = test.terminal
		s.progress("one")
		s.progress("two")
		s.step("fault", "x")
		if out.String() != test.want {
			t.Errorf("terminal %v: %q, want %q", test.terminal, out.String(), test.want)
		}
	}
}

func TestRound(t *testing.T) {
	for d, want := range map[time.Duration]string{
		4567 * time.Microsecond: "4.6ms", 45678 * time.Microsecond: "46ms", 3456 * time.Millisecond: "3.46s", 34567 * time.Millisecond: "34.6s",
	} {
		if got := round(d).String(); got != want {
			t.Errorf("round(%s) = %s, want %s", d, got, want)
		}
	}
}
