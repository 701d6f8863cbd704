package node

import (
	"shardcdc/apply"
	"shardcdc/apply/mysql"
	"shardcdc/apply/postgres"
	"shardcdc/pipeline/dsn"
)

// openTarget makes the target that an expanded DSN leads to.
func (r *replayer) openTarget(expanded string) (apply.Target, error) {
	switch dsn.KindOf(expanded) {
	case dsn.Files:
		return newFolder(r.sub, expanded)
	case dsn.MySQL:
		return mysql.New(mysql.Config{
			DSN: expanded, Subscription: r.sub.Name, Shards: len(r.sub.Shards), Truncate: r.sub.Truncate, DDL: r.sub.DDL,
			MovesMax: r.conf.MovesMax, CreateTables: r.sub.CreateTables,
		})
	case dsn.PostgreSQL:
	}
	return postgres.New(postgres.Config{
		DSN: expanded, Subscription: r.sub.Name, Shards: len(r.sub.Shards), Truncate: postgres.TruncatePolicy(r.sub.Truncate),
		DDL: postgres.DDLPolicy(r.sub.DDL), MovesMax: r.conf.MovesMax, CreateTables: r.sub.CreateTables,
	})
}
