package pipeline

import (
	"bytes"
	"fmt"
)

// FirstUserOID is the lowest OID that PostgreSQL gives to objects made after initdb. Types from here on have
// different OIDs in different databases and are known by name only.
const FirstUserOID = 16384

// Relation is one version of a table's description: a Relation message ('R') and the names of its
// user-defined types (the 'Y' messages before it). It is immutable; a changed table is a new Relation, so two
// equal pointers are the same version.
type Relation struct {
	ID        uint32 // OID on its shard
	Namespace string // schema; an empty one on the wire means pg_catalog and is stored as such
	Name      string
	Identity  byte // replica identity: 'd'efault, 'n'othing, 'f'ull, 'i'ndex
	Columns   []Column
	Types     []Type // of the columns whose type OID is FirstUserOID or higher
	Raw       []byte // the whole 'R' message, as it was received
}

// Column is a column of a Relation, in the order of the tuples.
type Column struct {
	Name     string
	Key      bool // part of the replica identity (every column, when the identity is full)
	Type     uint32
	Modifier int32
}

// Type is the name of a user-defined type, from a Type message ('Y'). Of a domain PostgreSQL sends the
// domain's OID with its base type's name.
type Type struct {
	OID       uint32
	Namespace string // empty on the wire means pg_catalog and is stored as such
	Name      string
}

// String is the table's name as PostgreSQL writes it without quotes: schema.table.
func (r *Relation) String() string { return r.Namespace + "." + r.Name }

// TypeName finds the name of a user-defined type among r.Types.
func (r *Relation) TypeName(oid uint32) (Type, bool) {
	for _, t := range r.Types {
		if t.OID == oid {
			return t, true
		}
	}
	return Type{}, false
}

// ParseRelation decodes a Relation message ('R', the type byte included). The result keeps its own copy of
// msg. types lists user-defined types known so far; those that the columns use are kept.
func ParseRelation(msg []byte, types func(oid uint32) (Type, bool)) (*Relation, error) {
	if len(msg) < 5 || msg[0] != 'R' {
		return nil, fmt.Errorf("relation: %w", errShort)
	}
	r := &Relation{Raw: bytes.Clone(msg)}
	c := CursorOf(r.Raw[1:])
	r.ID = c.Uint32()
	r.Namespace = c.CString()
	if r.Namespace == "" {
		r.Namespace = "pg_catalog"
	}
	r.Name = c.CString()
	r.Identity = c.Byte()
	n := int(c.Uint16())
	if c.short || n*10 > c.left() {
		return nil, fmt.Errorf("relation %s: %w", r, errShort)
	}
	r.Columns = make([]Column, n)
	for i := range r.Columns {
		col := &r.Columns[i]
		col.Key = c.Byte()&1 != 0
		col.Name = c.CString()
		col.Type = c.Uint32()
		col.Modifier = int32(c.Uint32())
		if col.Type >= FirstUserOID && types != nil {
			if t, ok := types(col.Type); ok {
				if _, have := r.TypeName(col.Type); !have {
					r.Types = append(r.Types, t)
				}
			}
		}
	}
	if err := c.End(); err != nil {
		return nil, fmt.Errorf("relation %s: %w", r, err)
	}
	return r, nil
}
