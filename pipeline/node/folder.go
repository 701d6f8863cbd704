package node

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"shardcdc/apply"
	"shardcdc/apply/files"
	"shardcdc/output"
	outputjson "shardcdc/output/json"
	outputsql "shardcdc/output/sql"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
)

// newFolder makes the target of a DSN that names a folder of files. What is in them is what a stream of the format has.
func newFolder(sub *control.Subscription, text string) (apply.Target, error) {
	o, err := files.ParseDSN(text)
	if err != nil {
		return nil, err
	}
	conf := files.Config{
		Folder: o.Folder, Subscription: sub.Name, Format: o.Format.Name, RotateBytes: o.RotateBytes, RotateEvery: o.RotateEvery,
	}
	names := shardNames(sub)
	switch o.Format.Name {
	case format.SQL:
		choices := o.Format.SQL
		choices.CreateTables = sub.CreateTables
		conf.Choices = fmt.Sprintf("dialect=%s idempotent=%t", choices.Dialect, choices.Idempotent)
		conf.Head = outputsql.Settings(choices.Dialect)
		conf.Encoder = func(copies []files.Copying) files.Encoder {
			e := outputsql.New(outputsql.Config{Shards: names, Options: choices, Truncate: sub.Truncate})
			e.Resume(begun(copies))
			return filed{Encoder: e}
		}
	case format.JSON:
		conf.Choices = fmt.Sprintf("types=%t fill_unchanged=%t", o.Format.JSON.Types, o.Format.JSON.FillUnchanged)
		conf.Encoder = func([]files.Copying) files.Encoder {
			return filed{Encoder: outputjson.New(names, o.Format.JSON), behind: "\n"}
		}
	default:
		return nil, fmt.Errorf("format %q has no files", o.Format.Name)
	}
	return files.New(conf)
}

// begun are the tables whose copy an encoder of statements has to know of.
func begun(copies []files.Copying) (tables []outputsql.Copied) {
	for _, c := range copies {
		tables = append(tables, outputsql.Copied{Schema: c.Schema, Table: c.Table, Job: c.Job, Keyed: c.Keyed, Arrived: c.Arrived})
	}
	return tables
}

// filed writes payloads into a file, with something behind each.
type filed struct {
	output.Encoder
	behind string
}

// Encode is described by files.Encoder.
func (f filed) Encode(b *pipeline.Batch) ([]io.WriterTo, error) {
	payloads, err := f.Encoder.Encode(b)
	if err != nil {
		return nil, err
	}
	pieces := make([]io.WriterTo, 0, 2*len(payloads))
	for _, p := range payloads {
		if p.Large != nil {
			pieces = append(pieces, p.Large)
		} else {
			pieces = append(pieces, bytes.NewReader(p.Data))
		}
		if f.behind != "" {
			pieces = append(pieces, strings.NewReader(f.behind))
		}
	}
	return pieces, nil
}
