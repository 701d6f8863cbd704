package json

import (
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// Ops of logical messages.
const (
	opMessage = "message"
	opDDL     = "ddl"
	opCopy    = "copy"
)

// message writes a logical message, and returns its op. What shardcdc itself says (package mark) has the fields of the mark, but for
// its token.
func (w *writer) message(c *pipeline.Change) (op string) {
	if d, ok, err := mark.DDLOf(c); ok && err == nil {
		d.Token = ""
		w.mark(`,"op":"ddl",`, d.Content())
		return opDDL
	}
	if m, ok, err := mark.CopyOf(c); ok && err == nil {
		m.Token = ""
		w.mark(`,"op":"copy",`, m.Content())
		return opCopy
	}
	w.buf = append(w.buf, `,"op":"message","prefix":`...)
	w.buf = appendText(w.buf, []byte(c.Prefix))
	w.buf = append(w.buf, `,"content":`...)
	w.buf = appendText(w.buf, c.Content)
	return opMessage
}

// mark writes a mark's object behind its op.
func (w *writer) mark(op string, content []byte) {
	w.buf = append(w.buf, op...)
	w.buf = append(w.buf, content[1:len(content)-1]...)
}
