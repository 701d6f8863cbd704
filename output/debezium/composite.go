package debezium

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"

	"shardcdc/pipeline/pgtype"
)

// Forms of values that consist of others.

// arrayForm writes a list. An array of several dimensions, or with bounds of its own, has none.
func arrayForm(item form, delimiter byte) form {
	f := textForm(arrayNode(item.node), func(dst, text []byte) ([]byte, error) {
		l := list{dst: append(dst, '['), item: &item}
		bounds, err := pgtype.WalkArray(text, delimiter, &l)
		switch {
		case l.err != nil:
			return l.dst, l.err
		case err != nil || bounds != "" || l.opened > 1:
			return l.dst, errNoForm
		}
		return append(l.dst, ']'), nil
	})
	f.absent = "[" + item.absentItem + "]"
	return f
}

// list writes the elements of an array.
type list struct {
	dst    []byte
	item   *form
	opened int
	n      int
	err    error
}

func (l *list) Open()  { l.opened++ }
func (l *list) Close() {}

func (l *list) Element(text []byte, null bool) {
	if l.err != nil || l.opened > 1 {
		return
	}
	if l.n > 0 {
		l.dst = append(l.dst, ',')
	}
	l.n++
	if null {
		l.dst = append(l.dst, `null`...)
		return
	}
	l.dst, l.err = l.item.write(l.dst, text)
}

func hstoreForm(mode string) form {
	if mode == "map" {
		f := textForm(mapNode(plainNode("string"), plainNode("string")), appendHStore)
		f.absent = `{"` + placeholder + `":"` + placeholder + `"}`
		f.absentItem = f.absent
		return f
	}
	f := textForm(named("string", "io.debezium.data.Json"), func(dst, text []byte) ([]byte, error) {
		object, err := appendHStore(nil, text)
		if err != nil {
			return dst, err
		}
		return appendString(dst, object)
	})
	f.absent = quote(`{"` + placeholder + `":"` + placeholder + `"}`)
	f.absentItem = f.absent
	return f
}

// appendHStore writes an object: "key"=>"value", "key"=>NULL.
func appendHStore(dst, text []byte) (_ []byte, err error) {
	s := scan{rest: text}
	dst = append(dst, '{')
	for n := 0; len(s.rest) > 0; n++ {
		if n > 0 {
			s.expect(',')
			s.expect(' ')
			dst = append(dst, ',')
		}
		if dst, err = appendString(dst, s.quoted()); err != nil {
			return dst, err
		}
		s.expect('=')
		s.expect('>')
		dst = append(dst, ':')
		if rest, null := bytes.CutPrefix(s.rest, []byte("NULL")); null {
			s.rest = rest
			dst = append(dst, `null`...)
		} else if dst, err = appendString(dst, s.quoted()); err != nil {
			return dst, err
		}
		if s.bad {
			return dst, errNoForm
		}
	}
	return append(dst, '}'), nil
}

// quoted takes a text in quotes.
func (s *scan) quoted() (text []byte) {
	s.expect('"')
	for i := 0; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '"':
			s.rest = s.rest[i+1:]
			return text
		case c == '\\' && i+1 < len(s.rest):
			i++
			text = append(text, s.rest[i])
		default:
			text = append(text, c)
		}
	}
	s.bad = true
	return nil
}

// pointForm has the coordinates as doubles, and as well-known binary.
func pointForm() form {
	n := named("struct", "io.debezium.data.geometry.Point").doc("Geometry (POINT)").fields(
		plainNode("double").field("x"), plainNode("double").field("y"),
		plainNode("bytes").optional().field("wkb"), plainNode("int32").optional().field("srid"))
	return textForm(n, func(dst, text []byte) ([]byte, error) {
		inner, ok := bytes.CutPrefix(text, []byte{'('})
		inner, ok2 := bytes.CutSuffix(inner, []byte{')'})
		x, y, ok3 := bytes.Cut(inner, []byte{','})
		if !ok || !ok2 || !ok3 {
			return dst, errNoForm
		}
		wkb := []byte{1, 1, 0, 0, 0} // little-endian, a point
		dst = append(dst, `{"x":`...)
		for i, coordinate := range [][]byte{x, y} {
			f, err := strconv.ParseFloat(string(coordinate), 64)
			if err != nil {
				return dst, errNoForm
			}
			wkb = binary.LittleEndian.AppendUint64(wkb, math.Float64bits(f))
			if i > 0 {
				dst = append(dst, `,"y":`...)
			}
			if dst, err = appendDouble(dst, coordinate); err != nil {
				return dst, err
			}
		}
		dst = appendBase64(append(dst, `,"wkb":`...), wkb)
		return append(dst, `,"srid":null}`...), nil
	})
}

// geometryForm passes PostGIS's extended well-known binary on, and has its SRID besides.
func geometryForm(name string) form {
	n := named("struct", "io.debezium.data.geometry."+name).doc(name).
		fields(plainNode("bytes").field("wkb"), plainNode("int32").optional().field("srid"))
	return textForm(n, func(dst, text []byte) ([]byte, error) {
		wkb, err := unhex(string(text))
		if err != nil || len(wkb) < 5 {
			return dst, errNoForm
		}
		var order binary.ByteOrder = binary.BigEndian
		if wkb[0] == 1 {
			order = binary.LittleEndian
		}
		dst = appendBase64(append(dst, `{"wkb":`...), wkb)
		dst = append(dst, `,"srid":`...)
		const hasSRID = 0x20000000
		if order.Uint32(wkb[1:])&hasSRID == 0 || len(wkb) < 9 {
			return append(dst, `null}`...), nil
		}
		return append(strconv.AppendInt(dst, int64(int32(order.Uint32(wkb[5:]))), 10), '}'), nil
	})
}

// vectorForm is of pgvector's types: [1,2.5].
func vectorForm(name, item string, number func(dst, text []byte) ([]byte, error)) form {
	n := arrayNode(plainNode(item)).name("io.debezium.data." + name)
	n.required = true
	return textForm(n, func(dst, text []byte) ([]byte, error) {
		inner, ok := bytes.CutPrefix(text, []byte{'['})
		inner, ok2 := bytes.CutSuffix(inner, []byte{']'})
		if !ok || !ok2 {
			return dst, errNoForm
		}
		dst = append(dst, '[')
		for i, text := range bytes.Split(inner, []byte{','}) {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = number(dst, text); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	})
}

func unhex(s string) ([]byte, error) { return hex.DecodeString(s) }

func hexOf(b []byte) string { return hex.EncodeToString(b) }
