package subscribe

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/control"
)

// targetVersionMin is the oldest PostgreSQL that is supported as a target.
const targetVersionMin = 130000

const targetSQL = `
SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), current_user::text,
  has_database_privilege(current_database(), 'CREATE') OR to_regclass('cdc.progress') IS NOT NULL,
  (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)`

// parameterVersionMin is the first PostgreSQL that can grant the setting of a parameter.
const parameterVersionMin = 150000

// checkTarget looks whether changes can be replayed there. tables are what the shards publish; targetRows says what a copy
// does with rows that are there already, and is empty when nothing is copied.
func checkTarget(ctx context.Context, t *control.Target, tables []table, shards []shardCheck, targetRows string) []Finding {
	about := "target " + t.Name
	db, err := open(ctx, t.DSN)
	if err != nil {
		return []Finding{FaultOf(about, err)}
	}
	defer db.hangUp()
	role, findings, err := targetRights(ctx, db, about)
	if err != nil {
		return []Finding{FaultOf(about, err)}
	}
	id, err := db.identity(ctx)
	if err != nil {
		return append(findings, FaultOf(about, err))
	}
	if slices.ContainsFunc(shards, func(s shardCheck) bool { return s.id == id }) {
		findings = append(findings, faultf(about, "--target with a database of its own", "it is one of the shards: changes would be replayed on themselves"))
	}
	lacking, err := readTargetTables(ctx, db, tables)
	if err != nil {
		return append(findings, FaultOf(about, err))
	}
	if targetRows != "" {
		found, err := checkTargetCopy(ctx, db, about, targetRows, tables)
		findings = append(findings, found...)
		if err != nil {
			findings = append(findings, FaultOf(about, err))
		}
	}
	if findings = append(findings, lacking.findings(about, role)...); len(findings) > 0 || len(tables) == 0 {
		return findings
	}
	return []Finding{{Severity: Info, About: about, What: fmt.Sprintf("every table (%d) is there with its columns, and role %s may write it", len(tables), role)}}
}

func targetRights(ctx context.Context, db *database, about string) (user string, findings []Finding, err error) {
	var (
		version          int
		standby          bool
		create, settable bool // settable: session_replication_role, which superusers may set in every version
	)
	if err := db.QueryRow(ctx, targetSQL).Scan(&version, &standby, &user, &create, &settable); err != nil {
		return "", nil, fmt.Errorf("ask for rights: %w", err)
	}
	role := pgx.Identifier{user}.Sanitize()
	if !settable && version >= parameterVersionMin {
		if err := db.QueryRow(ctx, "SELECT has_parameter_privilege('session_replication_role', 'SET')").Scan(&settable); err != nil {
			return "", nil, fmt.Errorf("ask for rights: %w", err)
		}
	}
	if version < targetVersionMin {
		findings = append(findings, faultf(about, "PostgreSQL 13 or newer", "PostgreSQL %d is too old", version/10000))
	}
	if standby {
		findings = append(findings, faultf(about, "the DSN of its primary", "it is a standby and cannot be written to"))
	}
	if !create {
		findings = append(findings, faultf(about, "GRANT CREATE ON DATABASE "+pgx.Identifier{db.Config().Database}.Sanitize()+" TO "+role,
			"role %s may not create the schema cdc, where the progress is kept", user))
	}
	if !settable {
		findings = append(findings, faultf(about, "GRANT SET ON PARAMETER session_replication_role TO "+role+" (PostgreSQL 15 or later; a superuser before that)",
			"role %s may not set session_replication_role, so triggers would fire a second time", user))
	}
	return user, findings, nil
}
