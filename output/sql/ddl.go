package sql

import (
	"strconv"
	"strings"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/mark"
)

// Statements that changed tables come from every shard that ran them, one after the other, and at no place between does one table for
// the rows of all shards look as all of them say. So a statement is run only where all shards ran it in one transaction: of a subscription
// of one shard always. Else, and in another dialect, it is a comment; rows that do not fit any more fail, and say which column it is.
//
// It is run by EXECUTE from a string constant, so its text is in quotes as every other value: it is one statement, or an error.

func ddlKey(d *mark.DDL) string {
	return strings.Join([]string{d.Statement, d.Tag, strconv.Itoa(d.Nth), d.SearchPath}, "\x00")
}

// ran notes that a shard ran a statement.
func (p *plan) ran(d *mark.DDL, shard pipeline.ShardID, fragment, index int) {
	if p.ddl == nil {
		p.ddl = make(map[string]*ran)
	}
	r := p.ddl[ddlKey(d)]
	if r == nil {
		r = &ran{shards: make(map[pipeline.ShardID]bool), at: [2]int{fragment, index}}
		p.ddl[ddlKey(d)] = r
	}
	r.shards[shard] = true
}

// ddl writes a statement that changed tables.
func (e *Encoder) ddl(d *mark.DDL) {
	e.buf = appendQuoted(append(e.buf, "-- ddl on shard "...), e.conf.Shards[e.of.Shard])
	e.buf = appendQuoted(append(e.buf, ' '), d.Statement)
	e.buf = appendQuoted(append(e.buf, " search_path "...), d.SearchPath)
	r := e.plan.ddl[ddlKey(d)]
	first := r != nil && r.at == [2]int{e.fragment, e.index - 1}
	why := e.notRun(d, r)
	switch {
	case why != "":
		e.buf = append(append(append(e.buf, ": not run here, "...), why...), '\n')
	case first:
		e.buf, e.path = e.dialect.execute(append(e.buf, '\n'), d), ""
	default:
		e.buf = append(e.buf, ": see above\n"...)
	}
}

// notRun says why a statement is a comment only; empty: it is run.
func (e *Encoder) notRun(d *mark.DDL, r *ran) string {
	text := strings.TrimRight(d.Statement, "; \t\r\n")
	switch {
	case e.conf.Options.Dialect == format.MySQL:
		return "it is PostgreSQL's"
	case d.Inexact != "":
		return "it is not the statement itself, but what caused it"
	case strings.Contains(text, ";"):
		return "it may be several statements"
	case strings.HasPrefix(d.Tag, "CREATE TABLE AS") || strings.HasPrefix(d.Tag, "SELECT"):
		return "it makes rows, which follow"
	case strings.Contains(strings.ToUpper(text), "CONCURRENTLY"):
		return "it cannot run within a transaction"
	case d.Settings["standard_conforming_strings"] == "off":
		return "its strings mean something else here"
	case r == nil || len(r.shards) < len(e.conf.Shards):
		return "shards run it one after the other: run it by hand where it suits the rows of all"
	}
	return ""
}
