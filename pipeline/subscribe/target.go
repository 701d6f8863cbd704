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
  (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
  has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMPORARY')`

// parameterVersionMin is the first PostgreSQL that can grant the setting of a parameter.
const parameterVersionMin = 150000

// checkTarget looks whether changes can be replayed there, and rows copied. tables are what the shards publish.
func checkTarget(ctx context.Context, t *control.Target, tables []table, shards []shardCheck, wish copyWish) []Finding {
	if isMySQL(t) {
		return checkMySQL(ctx, t, tables, wish)
	}
	about := "target " + t.Name
	if isFolder(t) {
		return checkFolder(about, t)
	}
	db, err := open(ctx, t.DSN)
	if err != nil {
		return []Finding{FaultOf(about, err)}
	}
	defer db.hangUp()
	return lookAtTarget(ctx, db, about, tables, shards, wish)
}

func lookAtTarget(ctx context.Context, db *database, about string, tables []table, shards []shardCheck, wish copyWish) []Finding {
	role, findings, err := targetRights(ctx, db, about, wish)
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
	lacking, err := readTargetTables(ctx, db, tables, wish)
	if err != nil {
		return append(findings, FaultOf(about, err))
	}
	if wish.copies() {
		found, err := checkTargetCopy(ctx, db, about, wish, tables)
		findings = append(findings, found...)
		if err != nil {
			findings = append(findings, FaultOf(about, err))
		}
	}
	if wish.creates {
		made, err := lacking.creatable(ctx, db, about, role)
		findings = append(findings, made...)
		if err != nil {
			findings = append(findings, FaultOf(about, err))
		}
	}
	if findings = append(findings, lacking.findings(about, role, wish)...); len(findings) > 0 || len(tables) == 0 {
		return findings
	}
	return []Finding{{Severity: Info, About: about, What: fmt.Sprintf("every table (%d) is there with its columns, and role %s may write it", len(tables), role)}}
}

func targetRights(ctx context.Context, db *database, about string, wish copyWish) (user string, findings []Finding, err error) {
	var (
		version   int
		standby   bool
		settable  bool // session_replication_role, which superusers may set in every version
		may       ownRights
		temporary bool
	)
	if err := db.QueryRow(ctx, targetSQL).Scan(&version, &standby, &user, &settable, &may.createSchema, &temporary); err != nil {
		return "", nil, fmt.Errorf("ask for rights: %w", err)
	}
	role, name := pgx.Identifier{user}.Sanitize(), pgx.Identifier{db.Config().Database}.Sanitize()
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
	if err := may.read(ctx, db); err != nil {
		return "", nil, err
	}
	findings = append(findings, may.findings(about, user, name)...)
	if !temporary && wish.copies() {
		findings = append(findings, faultf(about, "GRANT TEMPORARY ON DATABASE "+name+" TO "+role+wish.otherwise,
			"role %s may not make temporary tables, by which copied rows take the place of others", user))
	}
	if !settable {
		findings = append(findings, faultf(about, "GRANT SET ON PARAMETER session_replication_role TO "+role+" (PostgreSQL 15 or later; a superuser before that)",
			"role %s may not set session_replication_role, so triggers would fire a second time", user))
	}
	return user, findings, nil
}
