package chaos

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

// A soak samples what the processes take, while everything that can happen to them does.
type soak struct {
	*stage
	began     time.Time
	faults    map[string]int
	resources []*resource
	times     []time.Time // of the samples
	verified  int
}

// A resource has to be flat, or the product leaks.
type resource struct {
	name string
	unit string  // "B", or what is counted
	room float64 // may be gained at any rate: more than noise, less than a leak shows in an hour
	take func() (float64, error)
	all  []float64
}

const (
	mega         = 1 << 20
	sampleEvery  = 2 * time.Second
	verifyEvery  = time.Minute
	largeEvery   = 90 * time.Second
	soakLarge    = 11_000           // rows on each shard: 100 MB together
	soakRetain   = 90 * time.Second // longer than between two verifications, which read the stream
	warmUp       = 3                // the first part of so many does not count
	growthPerDay = 0.05             // of the mean, of what is not room
)

// most is a sampler: the most that one of the processes takes. A process that was just killed takes nothing.
func most(all func() []*program.Program, what func(harness.Usage) int64) func() (float64, error) {
	return func() (float64, error) {
		var n int64
		for _, p := range all() {
			u, err := harness.UsageOf(p.PID())
			if err == nil {
				n = max(n, what(u))
			} else if p.Running() {
				return 0, err
			}
		}
		return float64(n), nil
	}
}

// watched are the resources.
func (s *soak) watched() (all []*resource) {
	nats := func() (peers []*program.Program) {
		for i := range s.c.NATSServers() {
			peers = append(peers, s.c.Peer(i))
		}
		return peers
	}
	for _, kind := range []struct {
		name string
		all  func() []*program.Program
	}{
		{"node", func() []*program.Program { return s.nodes }}, {"worker", func() []*program.Program { return s.workers }}, {"NATS", nats},
	} {
		all = append(all,
			&resource{name: kind.name + ": resident memory", unit: "B", room: 64 * mega, take: most(kind.all, func(u harness.Usage) int64 { return u.ResidentBytes })},
			&resource{name: kind.name + ": open files", room: 10, take: most(kind.all, func(u harness.Usage) int64 { return u.Files })},
			&resource{name: kind.name + ": threads", room: 10, take: most(kind.all, func(u harness.Usage) int64 { return u.Threads })})
	}
	for i := range s.c.Servers {
		all = append(all, &resource{name: "shard " + harness.ShardName(i) + ": WAL kept for the slot", unit: "B", room: 256 * mega, take: func() (float64, error) {
			return strconv.ParseFloat(s.c.Query(s.c.ShardDSN(i), "SELECT (pg_current_wal_insert_lsn() - restart_lsn)::text FROM pg_replication_slots WHERE slot_name = $1", s.c.Sub.Shards[i].Slot), 64)
		}})
	}
	all = append(all,
		&resource{name: "stream", unit: "B", room: 256 * mega, take: s.streamBytes},
		&resource{name: "spill folders", unit: "B", room: 16 * mega, take: s.spillBytes},
		&resource{name: "delay to the target", unit: "s", room: 10, take: func() (float64, error) {
			return s.b.Meter().Lag(time.Now()).Seconds(), nil
		}})
	return all
}

func (s *soak) streamBytes() (float64, error) {
	return float64(s.c.StreamInfo().State.Bytes), nil
}

func (s *soak) spillBytes() (float64, error) {
	n, err := folderBytes(s.c.SpillDir(""))
	return float64(n), err
}

// sample looks at every resource. Everything runs at this moment.
func (s *soak) sample() {
	s.t.Helper()
	s.times = append(s.times, time.Now())
	for _, r := range s.resources {
		n, err := r.take()
		if err != nil {
			s.t.Fatalf("%s: %v", r.name, err)
		}
		r.all = append(r.all, n)
	}
}

// slope of the line that fits the samples best, per second, from sample first on.
func (r *resource) slope(times []time.Time, first int) float64 {
	var n, sx, sy, sxx, sxy float64
	for i := first; i < len(times); i++ {
		x, y := times[i].Sub(times[first]).Seconds(), r.all[i]
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	if d := n*sxx - sx*sx; d > 0 {
		return (n*sxy - sx*sy) / d
	}
	return 0
}

// verdict: flat when the fitted line rises less than the room in the time that was measured, or, in a long run, less than
// a small part of the mean in a day.
func (r *resource) verdict(times []time.Time) (flat bool, risen float64) {
	first := len(times) / warmUp
	if len(times)-first < 2 {
		return true, 0
	}
	slope := r.slope(times, first)
	risen = slope * times[len(times)-1].Sub(times[first]).Seconds()
	mean := 0.0
	for _, v := range r.all[first:] {
		mean += v / float64(len(times)-first)
	}
	return risen < r.room || slope*24*3600 < growthPerDay*mean, risen
}

func (r *resource) text(v float64) string {
	if r.unit == "B" {
		sign := ""
		if v < 0 {
			sign, v = "-", -v
		}
		return sign + humanize.IBytes(uint64(v))
	}
	return strings.TrimSpace(strconv.FormatFloat(v, 'f', 1, 64) + " " + r.unit)
}

// report is a page.
func (s *soak) report() string {
	var b strings.Builder
	end := time.Now()
	st := s.b.Stats()
	fmt.Fprintf(&b, "# Soak: %s, seed %d, %d NATS servers\n\n", end.Sub(s.began).Round(time.Second), s.c.Seed, s.c.NATSServers())
	fmt.Fprintf(&b, "%d transactions (%d distributed, %d abandoned by their coordinator, %d of 100 MB), compared %d times: no difference.\n\n",
		st.Transactions, st.Distributed, st.Abandoned, s.larges, s.verified)
	delays := s.b.Meter().Delays(nil)
	fmt.Fprintf(&b, "Delay to the target: half within %s, 99 %% within %s. Longest stall (no news on the target): %s.\n\nFaults:",
		delays.Quantile(0.5).Round(time.Millisecond), delays.Quantile(0.99).Round(time.Millisecond), s.b.Meter().Gap(s.began, end).Round(time.Millisecond))
	names := make([]string, 0, len(s.faults))
	for name := range s.faults {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		fmt.Fprintf(&b, "%s %s %d", map[bool]string{true: "", false: ","}[i == 0], name, s.faults[name])
	}
	fmt.Fprintf(&b, ".\n\n| resource | first | last | most | risen | |\n|---|---:|---:|---:|---:|---|\n")
	for _, r := range s.resources {
		verdict := "flat"
		flat, risen := r.verdict(s.times)
		if !flat {
			verdict = "**GROWS**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.name, r.text(r.all[0]), r.text(r.all[len(r.all)-1]), r.text(slices.Max(r.all)), r.text(risen), verdict)
	}
	fmt.Fprintf(&b, "\n%d samples. \"Risen\": a line fitted through the last two thirds of them. Flat: it rises less than the resource's room (memory 64 MiB, WAL and stream 256 MiB, "+
		"spill 16 MiB, files and threads 10, delay 10 s), or less than %.0f %% of the mean in a day.\n", len(s.times), 100*growthPerDay)
	return b.String()
}

// verify brings the traffic to rest and checks everything.
func (s *soak) verify() {
	s.t.Helper()
	defer s.c.Limit(4*time.Minute, "a verification")()
	s.b.Progressed()
	s.b.StopTraffic()
	s.c.Verify(s.b)
	s.verified++
}

// Everything that can happen happens, for as long as CDC_SOAK says (make soak DURATION=10m), while the bank works and large
// transactions come now and then. Every minute everything is compared, and what the processes take has to be flat at the
// end. CDC_SOAK_NATS: how many servers; CDC_SOAK_REPORT: file for the report.
func TestSoak(t *testing.T) {
	text := os.Getenv("CDC_SOAK")
	if text == "" {
		t.Skip("Try: make soak DURATION=10m")
	}
	duration, err := time.ParseDuration(text)
	must(t, err)
	o := harness.Options{Limit: duration + 20*time.Minute, Lease: lease, Retain: soakRetain}
	if n := os.Getenv("CDC_SOAK_NATS"); n != "" {
		o.NATSServers, err = strconv.Atoi(n)
		must(t, err)
	}
	if o.NATSServers > 1 {
		o.Lease = 12 * time.Second
	}
	s := &soak{stage: openStage(t, o, bank.Config{PerSecond: 100, AbandonEvery: 200, InDoubt: 2 * time.Second}), began: time.Now(), faults: map[string]int{}}
	s.spared = 1 // a leak shows in a process that lives
	s.resources = s.watched()
	s.until(duration)
	s.c.Finish(s.b)
	report := s.report()
	fmt.Println(report)
	if file := os.Getenv("CDC_SOAK_REPORT"); file != "" {
		must(t, os.WriteFile(file, []byte(report), 0o644))
	}
	for _, r := range s.resources {
		if flat, risen := r.verdict(s.times); !flat {
			t.Errorf("%s has risen by %s", r.name, r.text(risen))
		}
	}
}

func (s *soak) until(duration time.Duration) {
	s.t.Helper()
	sampled, verified, large := s.began, s.began, s.began
	for time.Since(s.began) < duration {
		s.faults[s.misbehave()]++
		s.b.Committed(s.dice.Int64N(300))
		if now := time.Now(); now.Sub(sampled) >= sampleEvery {
			s.sample()
			sampled = now
		}
		if time.Since(large) >= largeEvery {
			s.commitLarge(soakLarge)
			large = time.Now()
		}
		if time.Since(verified) >= verifyEvery {
			s.verify()
			s.b.StartTraffic()
			verified = time.Now()
		}
	}
	s.verify()
	s.sample()
}
