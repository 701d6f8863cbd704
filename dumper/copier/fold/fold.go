package fold

import (
	"errors"

	"shardcdc/pipeline"
)

// ErrAgain is wrapped by Fold's error when the chunk cannot be brought to its place: it has to be read anew.
var ErrAgain = errors.New("the chunk has to be read again")

// Table is a table that is copied. Names are those under which the shard publishes it.
type Table struct {
	Schema, Name string
	// Key are the columns whose values name a row; they are all part of the table's replica identity (or this is FULL), and
	// never NULL. Nil: a table without a key.
	Key []string
}

func (t Table) String() string { return t.Schema + "." + t.Name }

// Chunk is some rows of a table as one snapshot saw them; of a table without a key all that the shard holds.
type Chunk struct {
	ID    string
	Table Table
	// Relation of the rows, as pgoutput would describe the table.
	Relation *pipeline.Relation
	// Body has the form of a Fragment's: messages of kind pipeline.Read, each behind its length. A table without a key that is
	// too large for memory has its rows in Content instead.
	Body     []byte
	Content  pipeline.Content
	Rows     int
	Snapshot Snapshot
}

// Moved is the rows of a table that got another key in one fragment.
type Moved struct {
	Table Table
	// Keys, two for each such row: the key before, the key after. In the order of the columns of Table.Key, as text.
	Keys [][]string
	// All: there were too many to list, or they cannot be told. Every row of the table has to be copied once more.
	All bool
}
