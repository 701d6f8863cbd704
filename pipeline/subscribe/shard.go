package subscribe

import (
	"context"
	"errors"
	"fmt"

	"shardcdc/dumper"
	"shardcdc/pipeline/control"
)

// provision prepares one shard. What it made is gone again when it fails.
func provision(ctx context.Context, spec *Spec, sh *control.Shard) (Notes, error) {
	want := dumper.ProvisionSpec{
		DSN: sh.DSN, Name: sh.Name, Slot: sh.Slot, UseSlot: !sh.OwnSlot, SlotTimeout: spec.SlotTimeout,
		Publications: spec.Publications, Tables: spec.Tables,
	}
	if sh.OwnPublication {
		want.Publication = sh.Publications[0]
	}
	made, err := dumper.Provision(ctx, want)
	if err != nil {
		return nil, err
	}
	sh.SystemID, sh.Timeline, sh.Start, sh.Publications = made.SystemID, made.Timeline, made.Start, made.Publications
	var notes Notes
	for _, n := range made.Notes {
		f := FaultOf("shard "+sh.Name, errors.New(n))
		f.Severity = Warning
		notes = append(notes, f)
	}
	return notes, nil
}

// deprovision removes what provision made, as far as it is there.
func deprovision(ctx context.Context, sh *control.Shard) (removed []string, err error) {
	want := dumper.DeprovisionSpec{DSN: sh.DSN, Name: sh.Name}
	if sh.OwnSlot {
		want.Slot = sh.Slot
	}
	if sh.OwnPublication && len(sh.Publications) > 0 {
		want.Publication = sh.Publications[0]
	}
	if want.Slot == "" && want.Publication == "" {
		return nil, nil
	}
	gone, err := dumper.Deprovision(ctx, want)
	if gone.Slot != "" {
		removed = append(removed, fmt.Sprintf("shard %s: slot %s", sh.Name, gone.Slot))
	}
	if gone.Publication != "" {
		removed = append(removed, fmt.Sprintf("shard %s: publication %s", sh.Name, gone.Publication))
	}
	return removed, err
}
