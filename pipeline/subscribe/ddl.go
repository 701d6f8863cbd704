package subscribe

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"shardcdc/dumper"
	"shardcdc/pipeline/control"
)

// Capturing DDL: event triggers on every shard, named after the subscription, from before its slots were made until it is
// dropped or altered to ignore DDL. The patterns of tables are in them, so they are made anew when those change.

func ddlSpec(sub *control.Subscription, sh *control.Shard) dumper.DDLSpec {
	spec := dumper.DDLSpec{DSN: sh.DSN, Name: sh.Name, Subscription: sub.Name, Token: sub.Incarnation, Publications: sh.Publications}
	if sh.OwnPublication {
		spec.Tables = sub.Tables
	}
	return spec
}

func ddlTriggers(sub *control.Subscription) []string {
	spec := dumper.DDLSpec{Subscription: sub.Name}
	return spec.Triggers()
}

// eachShard does something on all shards at the same time.
func eachShard(sub *control.Subscription, do func(*control.Shard) error) error {
	return parallel(len(sub.Shards), func(i int) error { return do(&sub.Shards[i]) })
}

// InstallDDL makes the event triggers as the subscription wants them. It may be repeated; a subscription that ignores DDL
// wants none.
func InstallDDL(ctx context.Context, sub *control.Subscription) error {
	if sub.DDL == control.DDLIgnore {
		return nil
	}
	return eachShard(sub, func(sh *control.Shard) error { return dumper.InstallDDL(ctx, ddlSpec(sub, sh)) })
}

// UninstallDDL removes the event triggers. It may be repeated.
func UninstallDDL(ctx context.Context, sub *control.Subscription) error {
	return eachShard(sub, func(sh *control.Shard) error {
		_, err := uninstallDDL(ctx, sub, sh)
		return err
	})
}

func uninstallDDL(ctx context.Context, sub *control.Subscription, sh *control.Shard) (removed []string, err error) {
	gone, err := dumper.UninstallDDL(ctx, ddlSpec(sub, sh))
	for _, what := range gone {
		removed = append(removed, fmt.Sprintf("shard %s: %s", sh.Name, what))
	}
	return removed, err
}

// provisionAll prepares one shard, the event triggers first: whatever the slot delivers has its DDL.
func provisionAll(ctx context.Context, spec *Spec, sub *control.Subscription, sh *control.Shard) (Notes, error) {
	if sub.DDL != control.DDLIgnore {
		if err := dumper.InstallDDL(ctx, ddlSpec(sub, sh)); err != nil {
			return nil, err
		}
	}
	notes, err := provision(ctx, spec, sh)
	if err != nil && sub.DDL != control.DDLIgnore {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		_, left := uninstallDDL(undo, sub, sh)
		err = errors.Join(err, left)
	}
	return notes, err
}

// deprovisionAll removes what provisionAll made, as far as it is there.
func deprovisionAll(ctx context.Context, sub *control.Subscription, sh *control.Shard) (removed []string, err error) {
	removed, err = deprovision(ctx, sh)
	if err != nil {
		return removed, err
	}
	triggers, err := uninstallDDL(ctx, sub, sh)
	return append(removed, triggers...), err
}

// checkDDLRole says whether the event triggers can be made. Hosted servers let roles make them that are no superusers, so
// this is no fault.
func checkDDLRole(ctx context.Context, db *database) ([]Finding, error) {
	var role string
	var super bool
	if err := db.QueryRow(ctx, "SELECT rolname::text, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user").Scan(&role, &super); err != nil {
		return nil, fmt.Errorf("ask for the role: %w", err)
	}
	if super {
		return nil, nil
	}
	return []Finding{{
		Severity: Warning, What: fmt.Sprintf("role %s is no superuser, and PostgreSQL lets only superusers make the event triggers that capture DDL", role),
		Try: "ALTER ROLE " + pgx.Identifier{role}.Sanitize() + " SUPERUSER while cdcctl makes them, or --ddl ignore",
	}}, nil
}

// triggersInstalled is how many things dumper.InstallDDL makes.
const triggersInstalled = 6

// checkDDL looks whether the event triggers are there.
func checkDDL(ctx context.Context, sub *control.Subscription) (findings []Finding) {
	if sub.DDL == control.DDLIgnore {
		return nil
	}
	for i := range sub.Shards {
		sh := &sub.Shards[i]
		about := "shard " + sh.Name
		there, err := dumper.InspectDDL(ctx, ddlSpec(sub, sh))
		switch {
		case err != nil:
			findings = append(findings, FaultOf(about, err))
		case len(there) < triggersInstalled:
			findings = append(findings, faultf(about, fmt.Sprintf("cdcctl alter-subscription %s --ddl %s, which makes them anew", sub.Name, sub.DDL),
				"event triggers that capture DDL are missing: of %d parts there are %d", triggersInstalled, len(there)))
		}
	}
	return findings
}
