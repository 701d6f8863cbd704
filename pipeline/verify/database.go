package verify

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/connection"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/textform"
)

// database is one session with a shard or with the target. One goroutine uses it at a time.
type database struct {
	name     string // "shard a", "target replica"
	conn     *pgx.Conn
	version  int
	encoding string
}

// Everything that the text of a value, or the fate of a statement, depends on.
var pinned = append(textform.Settings(), [][2]string{
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_deferrable", "off"},
	{"row_security", "off"}, // an error where a policy would hide rows
	{"statement_timeout", "0"},
	{"lock_timeout", "30s"},
	{"idle_in_transaction_session_timeout", "0"},
	{"jit", "off"},
}...)

// dial connects. No error holds a password.
func dial(ctx context.Context, name, text, application string) (*database, error) {
	conn, _, err := connection.Open(ctx, text, map[string]string{
		"application_name": application[:min(len(application), 63)], "client_encoding": "UTF8",
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	d := &database{name: name, conn: conn}
	if err := d.settings(ctx); err != nil {
		d.hangUp()
		return nil, err
	}
	return d, nil
}

func (d *database) settings(ctx context.Context) error {
	var sql strings.Builder
	for _, p := range pinned {
		fmt.Fprintf(&sql, "SET %s = %s;\n", p[0], literal(p[1]))
	}
	// Servers before 17 do not know it.
	sql.WriteString("SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'")
	if err := d.exec(ctx, sql.String()); err != nil {
		return err
	}
	rows, err := d.query(ctx, "SELECT current_setting('server_version_num'), current_setting('server_encoding')")
	if err != nil {
		return err
	}
	d.encoding = string(rows[0][1])
	d.version, err = strconv.Atoi(string(rows[0][0]))
	return err
}

func (d *database) hangUp() { connection.HangUp(d.conn) }

// exec runs statements without parameters.
func (d *database) exec(ctx context.Context, sql string) error {
	_, err := d.conn.PgConn().Exec(ctx, sql).ReadAll()
	return d.wrap(err)
}

// query runs one statement and returns its rows as text; NULL is nil.
func (d *database) query(ctx context.Context, sql string, args ...string) ([][][]byte, error) {
	r := d.conn.PgConn().ExecParams(ctx, sql, parameters(args), nil, nil, nil).Read()
	return r.Rows, d.wrap(r.Err)
}

// each calls fn with every row of a result; the values are good until it returns.
func (d *database) each(ctx context.Context, sql string, args []string, fn func(row [][]byte) error) error {
	r := d.conn.PgConn().ExecParams(ctx, sql, parameters(args), nil, nil, nil)
	var failed error
	for failed == nil && r.NextRow() {
		failed = fn(r.Values())
	}
	_, err := r.Close()
	return d.wrap(errors.Join(failed, err))
}

func parameters(args []string) [][]byte {
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	return params
}

func (d *database) wrap(err error) error {
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return fmt.Errorf("%s: %w. Try: GRANT SELECT to the DSN's role there, and BYPASSRLS where tables have row security", d.name, err)
	}
	return fmt.Errorf("%s: %w", d.name, err)
}

// cluster is a session with every shard and one with the target.
type cluster struct {
	shards []*database // by ShardID
	target *database
}

func connect(ctx context.Context, sub *control.Subscription, target *control.Target) (*cluster, error) {
	c := &cluster{shards: make([]*database, len(sub.Shards))}
	application := "cdcctl verify " + sub.Name
	group, connecting := errgroup.WithContext(ctx)
	for i, sh := range sub.Shards {
		group.Go(func() (err error) {
			c.shards[i], err = dial(connecting, "shard "+sh.Name, sh.DSN, application)
			return err
		})
	}
	group.Go(func() (err error) {
		c.target, err = dial(connecting, "target "+target.Name, target.DSN, application)
		return err
	})
	if err := group.Wait(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *cluster) close() {
	for _, d := range append([]*database{c.target}, c.shards...) {
		if d != nil {
			d.hangUp()
		}
	}
}

// eachShard runs fn for all shards at the same time.
func (c *cluster) eachShard(ctx context.Context, fn func(ctx context.Context, i int, d *database) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, d := range c.shards {
		group.Go(func() error { return fn(ctx, i, d) })
	}
	return group.Wait()
}

// quote makes an identifier of any name.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal makes a string constant.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// array is the text form of an array of texts.
func array(values []string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	var b strings.Builder
	b.WriteByte('{')
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		b.WriteString(escape.Replace(v))
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}
