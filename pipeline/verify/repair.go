package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// repairRows are repaired in one transaction, which holds the worker back.
const repairRows = 200

// What repair does with a row.
const (
	actInsert = "insert"
	actUpdate = "update"
	actDelete = "delete"
)

// repair writes the source's rows over those that are known to differ, if that is wanted.
func (v *verifier) repair(ctx context.Context, j *judge) error {
	if !v.cfg.Repair {
		return nil
	}
	var list []*suspect
	for _, s := range v.suspects {
		if s.answer == different {
			list = append(list, s)
		}
	}
	if v.cfg.DryRun {
		for _, s := range list {
			s.action = s.act()
		}
		return nil
	}
	for batch := range slices.Chunk(list, repairRows) {
		left := batch
		for n := 0; n < v.cfg.Rounds && len(left) > 0; n++ {
			if err := j.repair(ctx, left); err != nil {
				return fmt.Errorf("repair: %w", err)
			}
			v.tellRepaired(left)
			left = slices.DeleteFunc(slices.Clone(left), func(s *suspect) bool { return s.answer != undecided })
		}
	}
	v.suspects = slices.DeleteFunc(v.suspects, func(s *suspect) bool { return s.answer == equal })
	return nil
}

// tellRepaired tells of what was committed.
func (v *verifier) tellRepaired(list []*suspect) {
	if v.cfg.Repaired == nil {
		return
	}
	for _, s := range list {
		if s.answer == different && s.action != "" {
			v.cfg.Repaired(s.plan.tableName.String(), s.weight())
		}
	}
}

// act is what makes the target's rows the source's; empty: a person has to look.
func (s *suspect) act() string {
	more := s.source.rows - s.last.side.rows
	switch {
	case s.plan.key == nil && more > 0:
		return actInsert
	case s.plan.key == nil && more < 0:
		return actDelete
	case s.source.rows > 1 || s.last.side.rows > 1:
		return ""
	case more > 0:
		return actInsert
	case more < 0:
		return actDelete
	}
	return actUpdate
}

// weight is how many rows a suspect counts.
func (s *suspect) weight() int64 {
	return max(1, int64(max(s.source.rows-s.last.side.rows, s.last.side.rows-s.source.rows)))
}

// repair judges suspects once more while the worker is held back, and writes those that differ. The worker's
// compare-and-swap on the progress row waits for our lock, so the target stays where it is until we commit.
func (j *judge) repair(ctx context.Context, list []*suspect) error {
	return j.c.target.transaction(ctx, "BEGIN", func() error {
		if err := j.c.target.replicaRole(ctx); err != nil {
			return err
		}
		at, err := j.c.progress(ctx, j.sub.Name, j.stream.id, " FOR UPDATE")
		if err != nil {
			return fmt.Errorf("%w. Try: again; a worker that writes a large transaction holds the row until its end", err)
		}
		r := &round{judge: j, g: group(list), keep: true}
		r.g.each((*suspect).ask)
		if err := r.readSource(ctx, at); err != nil {
			return err
		}
		if err := r.readTarget(ctx, at); err != nil {
			return err
		}
		publishing, cancel := context.WithTimeoutCause(ctx, j.timeout, fmt.Errorf("not published within %s", j.timeout))
		defer cancel()
		end, err := r.barrier(publishing)
		if err != nil {
			return err
		}
		r.upTo = max(r.upTo, end.seq)
		if err := r.decide(ctx); err != nil {
			return err
		}
		return r.write(ctx, list, at)
	})
}

// replicaRole: triggers and foreign keys do not fire, as with the worker; so the order of tables does not matter.
func (d *database) replicaRole(ctx context.Context) error {
	err := d.exec(ctx, "SET LOCAL session_replication_role = replica")
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return fmt.Errorf("%s: triggers would fire: %s. Try: GRANT SET ON PARAMETER session_replication_role to the DSN's role (PostgreSQL 15 or later; a superuser before that)", d.name, pg.Message)
	}
	return err
}

// write writes what differs, deletes first: they make room for values that must be unique. Then it looks whether the
// rows are what they should be.
func (r *round) write(ctx context.Context, list []*suspect, at position) error {
	var todo []*suspect
	for _, s := range list {
		switch {
		case s.answer != different:
		case s.act() == "":
			s.reason = "several rows have this key. Try: mend it by hand"
		default:
			todo = append(todo, s)
		}
	}
	order := map[string]int{actDelete: 0, actUpdate: 1, actInsert: 2}
	slices.SortStableFunc(todo, func(a, b *suspect) int { return cmp.Compare(order[a.act()], order[b.act()]) })
	for _, s := range todo {
		if err := r.writeOne(ctx, s); err != nil {
			return err
		}
	}
	return r.check(ctx, todo, at)
}

// check reads the rows that were written. A row that is still different is not repaired.
func (r *round) check(ctx context.Context, written []*suspect, at position) error {
	found := map[*suspect]view{}
	for _, s := range written {
		found[s], s.answer = s.last, undecided
	}
	if err := r.readTarget(ctx, at); err != nil {
		return err
	}
	for _, s := range written {
		if s.answer != equal && s.action != "" {
			s.action, s.reason = "", "it was written and is still different: the column's type on the target, or a trigger, changes it"
		}
		s.answer, s.last = different, found[s]
	}
	return nil
}

// writeOne writes one suspect. A row that the target refuses stays as it is.
func (r *round) writeOne(ctx context.Context, s *suspect) error {
	d := r.c.target
	if err := d.exec(ctx, "SAVEPOINT row"); err != nil {
		return err
	}
	action, times, rows := s.act(), int64(1), s.weight()
	if action == actInsert {
		times, rows = rows, 1
	}
	sql, args := s.statement(action)
	for range times {
		result := d.conn.PgConn().ExecParams(ctx, sql, args, nil, nil, nil).Read()
		var pg *pgconn.PgError
		switch {
		case errors.As(result.Err, &pg):
			s.reason = fmt.Sprintf("%s on the target: %s", action, pg.Message)
			return d.exec(ctx, "ROLLBACK TO row")
		case result.Err != nil:
			return d.wrap(result.Err)
		case result.CommandTag.RowsAffected() != rows:
			return fmt.Errorf("%s: %s of %s %s touched %d rows, want %d", d.name, action, s.plan, s.id, result.CommandTag.RowsAffected(), rows)
		}
	}
	s.action = action
	return d.exec(ctx, "RELEASE row")
}

// statement is one that does an action.
func (s *suspect) statement(action string) (sql string, args [][]byte) {
	w := &writer{s: s}
	switch action {
	case actInsert:
		w.insert()
	case actUpdate:
		w.update()
	default:
		w.delete()
	}
	return w.String(), w.args
}

// writer writes one statement.
type writer struct {
	strings.Builder
	s    *suspect
	args [][]byte
}

// arg adds a parameter; its type is that of its place.
func (w *writer) arg(v value) string {
	if v.null {
		w.args = append(w.args, nil)
	} else {
		w.args = append(w.args, []byte(v.text))
	}
	return "$" + strconv.Itoa(len(w.args))
}

// insert: of rows without a key all are the same.
func (w *writer) insert() {
	p := w.s.plan
	w.WriteString("INSERT INTO " + p.sql())
	if len(p.columns) == 0 {
		w.WriteString(" DEFAULT VALUES")
		return
	}
	names, places := make([]string, len(p.columns)), make([]string, len(p.columns))
	for i, c := range p.columns {
		names[i], places[i] = quote(c), w.arg(w.s.source.values[0][i])
	}
	fmt.Fprintf(w, " (%s) OVERRIDING SYSTEM VALUE VALUES (%s)", strings.Join(names, ", "), strings.Join(places, ", "))
}

func (w *writer) update() {
	p := w.s.plan
	var set []string
	for i, c := range p.columns {
		if w.s.source.columns[i] != w.s.last.side.columns[i] {
			set = append(set, quote(c)+" = "+w.arg(w.s.source.values[0][i]))
		}
	}
	w.WriteString("UPDATE " + p.from(p.target) + " AS t SET " + strings.Join(set, ", "))
	w.where()
}

func (w *writer) delete() {
	p := w.s.plan
	w.WriteString("DELETE FROM " + p.from(p.target) + " AS t")
	if p.key != nil {
		w.where()
		return
	}
	fmt.Fprintf(w, " USING (SELECT t.tableoid AS o, t.ctid AS c FROM %s AS t WHERE %s = %s LIMIT %d) AS x WHERE t.tableoid = x.o AND t.ctid = x.c",
		p.from(p.target), p.digest(p.record(p.identity())), w.arg(value{text: w.s.id}), w.s.weight())
}

// where finds the row by its key, and by the key's text, which is exact.
func (w *writer) where() {
	p := w.s.plan
	w.WriteString(" WHERE ")
	for i, c := range p.key {
		col := p.target.columns[p.target.column(p.columns[c])]
		if op := p.target.operator(col.name); op != "" {
			fmt.Fprintf(w, "t.%s %s %s::%s AND ", quote(col.name), op, w.arg(w.s.key[i]), col.typ)
		}
	}
	fmt.Fprintf(w, "%s = %s", p.digest(p.record(p.key)), w.arg(value{text: digest(w.s.id)}))
}
