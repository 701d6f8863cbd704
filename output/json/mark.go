package json

import (
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// message writes a logical message. What shardcdc itself says (package mark) has the fields of the mark, but for its token.
func (e *Encoder) message(c *pipeline.Change) {
	if d, ok, err := mark.DDLOf(c); ok && err == nil {
		d.Token = ""
		e.mark(`,"op":"ddl",`, d.Content())
		return
	}
	if m, ok, err := mark.CopyOf(c); ok && err == nil {
		m.Token = ""
		e.mark(`,"op":"copy",`, m.Content())
		return
	}
	e.buf = append(e.buf, `,"op":"message","prefix":`...)
	e.buf = appendText(e.buf, []byte(c.Prefix))
	e.buf = append(e.buf, `,"content":`...)
	e.buf = appendText(e.buf, c.Content)
}

// mark writes a mark's object behind its op.
func (e *Encoder) mark(op string, content []byte) {
	e.buf = append(e.buf, op...)
	e.buf = append(e.buf, content[1:len(content)-1]...)
}
