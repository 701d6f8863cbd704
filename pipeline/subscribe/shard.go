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
	patterns, err := shardPatterns(ctx, spec, sh)
	if err != nil {
		return nil, fmt.Errorf("shard %s: %w", sh.Name, err)
	}
	want := dumper.ProvisionSpec{
		DSN: sh.DSN, Name: sh.Name, Slot: sh.Slot, UseSlot: !sh.OwnSlot, SlotTimeout: spec.SlotTimeout,
		Publications: spec.Publications, Tables: patterns,
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

// shardPatterns are the tables to publish.
func shardPatterns(ctx context.Context, spec *Spec, sh *control.Shard) ([]string, error) {
	if !sh.OwnPublication || !spec.excludes() {
		return spec.Tables, nil
	}
	db, err := open(ctx, sh.DSN)
	if err != nil {
		return nil, err
	}
	defer db.hangUp()
	tables, err := shardTables(ctx, db, spec)
	if err != nil {
		return nil, err
	}
	return patternsOf(spec, tables)
}

// patternsOf are the patterns as they were given, or the names that are left when some exclude others.
func patternsOf(spec *Spec, tables []table) ([]string, error) {
	if !spec.excludes() {
		return spec.Tables, nil
	}
	if len(tables) == 0 {
		return nil, errors.New("no table is left after the exclusions. Try: --tables with fewer of them")
	}
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.quoted()
	}
	return names, nil
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
