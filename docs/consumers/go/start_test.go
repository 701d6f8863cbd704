package main

import (
	"context"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline/embedded/natstest"
)

const (
	stream  = "CDC_bank"
	subject = "cdc.bank._tx"
)

// stored is a message of a transaction in the test's stream.
type stored struct {
	csn, seq uint64
	time     time.Time
}

// fill makes a stream of units with up to four transactions and with what stands between them, and returns the transactions.
func fill(t *testing.T, js jetstream.JetStream) (all []stored) {
	t.Helper()
	ctx := t.Context()
	s, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{"cdc.bank.>"}})
	if err != nil {
		t.Fatal(err)
	}
	put := func(subject string, headers ...string) uint64 {
		m := nats.NewMsg(subject)
		for i := 0; i < len(headers); i += 2 {
			m.Header.Set(headers[i], headers[i+1])
		}
		ack, err := js.PublishMsg(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	unit, csn := uint64(0), uint64(0)
	for range 20 {
		if dice.IntN(3) == 0 {
			put("cdc.bank._ctl.epoch")
		}
		n := 1 + dice.IntN(4)
		end := unit
		for i := range n {
			csn += 1 + dice.Uint64N(3)
			headers := []string{"Cdc-Csn", strconv.FormatUint(csn, 10), "Cdc-Unit", strconv.FormatUint(unit, 10)}
			if i == n-1 {
				headers = append(headers, "Cdc-Checkpoint", "x")
			}
			end = put(subject, headers...)
			m, err := s.GetMsg(ctx, end)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, stored{csn: csn, seq: end, time: m.Time})
		}
		unit = end
		if dice.IntN(3) == 0 {
			unit = put("cdc.bank._ctl.watermark", "Cdc-Csn", strconv.FormatUint(csn, 10), "Cdc-Checkpoint", "x")
		}
	}
	return all
}

// check says whether a position is right for a consumer that wants what begins with transaction i: it is at the end of a
// unit, with the CSN of the transaction there, nothing wanted is in front of it, and only a part of a unit that is not wanted
// comes behind it.
func check(t *testing.T, all []stored, i int, at position) {
	t.Helper()
	before := "0"
	behind := 0 // transactions behind the position that are not wanted
	for j, tx := range all {
		switch {
		case tx.seq <= at.seq && j >= i:
			t.Errorf("transaction %d, at %d, is wanted, and the position is behind it, at %d", tx.csn, tx.seq, at.seq)
		case tx.seq <= at.seq:
			before = strconv.FormatUint(tx.csn, 10)
		case j < i:
			behind++
		}
	}
	if at.csn != before || behind > 3 {
		t.Errorf("wanted from number %d: position %+v, want csn %s; %d come that are not wanted", i, at, before, behind)
	}
}

func TestStart(t *testing.T) {
	js := natstest.Bus(t).JS
	all := fill(t, js)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	last := all[len(all)-1]
	for csn := range last.csn {
		at, err := behindCSN(ctx, s, subject, csn)
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for all[i].csn <= csn {
			i++
		}
		check(t, all, i, at)
	}
	if at, err := behindCSN(ctx, s, subject, last.csn); err != nil || at.seq > last.seq {
		t.Errorf("position %+v, %v, with everything up to the end, at %d", at, err, last.seq)
	}
	for i, tx := range all {
		at, err := atTime(ctx, js, s, subject, tx.time)
		if err != nil {
			t.Fatal(err)
		}
		check(t, all, i, at)
	}
}
