package pgtype

import (
	"bytes"
	"errors"
	"strings"
)

// ArrayVisitor is told what an array consists of, in order.
type ArrayVisitor interface {
	Open()  // a dimension begins
	Close() // and ends
	// Element is a value; text is good until the next call. null: NULL, and text is nil.
	Element(text []byte, null bool)
}

var errArray = errors.New("no array in PostgreSQL's text form")

// WalkArray reads the text form of an array, or of an int2vector or oidvector with delimiter ' '. The delimiter is ',' but for
// box[], whose is ';'. Bounds in front ("[0:2]={…}") are returned as they stand, without the equals sign. What was visited before
// an error means nothing.
func WalkArray(text []byte, delimiter byte, v ArrayVisitor) (bounds string, err error) {
	if len(text) > 0 && text[0] == '[' {
		i := bytes.IndexByte(text, '=')
		if i < 0 {
			return "", errArray
		}
		bounds, text = string(text[:i]), text[i+1:]
	}
	a := arrayText{rest: text, delimiter: delimiter, v: v}
	if err := a.dimension(); err != nil {
		return "", err
	}
	if len(a.rest) > 0 {
		return "", errArray
	}
	return bounds, nil
}

// arrayDepthMax is PostgreSQL's limit of dimensions (MAXDIM).
const arrayDepthMax = 6

type arrayText struct {
	rest      []byte
	delimiter byte
	v         ArrayVisitor
	depth     int
	scratch   []byte
}

func (a *arrayText) take(c byte) bool {
	if len(a.rest) == 0 || a.rest[0] != c {
		return false
	}
	a.rest = a.rest[1:]
	return true
}

func (a *arrayText) dimension() error {
	if a.depth++; a.depth > arrayDepthMax || !a.take('{') {
		return errArray
	}
	a.v.Open()
	for first := true; !a.take('}'); first = false {
		if !first && !a.take(a.delimiter) || len(a.rest) == 0 {
			return errArray
		}
		if err := a.item(); err != nil {
			return err
		}
	}
	a.v.Close()
	a.depth--
	return nil
}

func (a *arrayText) item() error {
	switch a.rest[0] {
	case '{':
		return a.dimension()
	case '"':
		a.rest = a.rest[1:]
		text, err := a.quoted()
		if err == nil {
			a.v.Element(text, false)
		}
		return err
	}
	i := bytes.IndexAny(a.rest, string(a.delimiter)+"}")
	if i <= 0 {
		return errArray
	}
	text := a.rest[:i]
	a.rest = a.rest[i:]
	if strings.EqualFold(string(text), "NULL") {
		a.v.Element(nil, true)
		return nil
	}
	return a.bare(text)
}

// bare is a value without quotes.
func (a *arrayText) bare(text []byte) error {
	if bytes.ContainsAny(text, `"{\`) {
		return errArray // PostgreSQL writes these in quotes
	}
	a.v.Element(text, false)
	return nil
}

// quoted takes the rest of a value in quotes.
func (a *arrayText) quoted() ([]byte, error) {
	a.scratch = a.scratch[:0]
	for i := 0; i < len(a.rest); i++ {
		switch c := a.rest[i]; c {
		case '"':
			a.rest = a.rest[i+1:]
			return a.scratch, nil
		case '\\':
			if i++; i == len(a.rest) {
				return nil, errArray
			}
			a.scratch = append(a.scratch, a.rest[i])
		default:
			a.scratch = append(a.scratch, c)
		}
	}
	return nil, errArray
}
