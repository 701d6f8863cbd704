package shape

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"math/big"
	"slices"
	"strconv"
	"unicode/utf8"

	"shardcdc/pipeline"
	"shardcdc/pipeline/pgtype"
)

const textOID = 25

// keyBytesMin is the shortest key of a hash: a shorter one could be found by trying.
const keyBytesMin = 16

// varlenaHeader is what a modifier has above the length of varchar(n) and char(n).
const varlenaHeader = 4

// fits says whether a column can be masked in this way.
func (m Mask) fits(r *pipeline.Relation, c *pipeline.Column) error {
	name := pgtype.Name(r, c.Type)
	textual := slices.Contains([]string{"text", "varchar", "bpchar"}, name)
	switch {
	case m.Truncate > 0 && !textual:
		return fmt.Errorf("truncate is for texts, and the column is %s. Try: hash or nullify", named(name))
	case m.Redact == nil:
		return nil
	}
	ok := false
	switch v := *m.Redact; name {
	case "text":
		ok = true
	case "varchar", "bpchar":
		ok = c.Modifier < 0 || utf8.RuneCountInString(v) <= int(c.Modifier)-varlenaHeader
	case "int2", "int4", "int8":
		_, err := strconv.ParseInt(v, 10, map[string]int{"int2": 16, "int4": 32, "int8": 64}[name])
		ok = err == nil
	case "numeric":
		_, ok = new(big.Int).SetString(v, 10) // digits behind the point depend on the column
	case "bool":
		ok = v == "t" || v == "f"
	case "json", "jsonb":
		ok = json.Valid([]byte(v))
	}
	if !ok {
		return fmt.Errorf("redact %q does not fit type %s; a text fits texts (of varchar(n) and char(n) up to n characters), an integer fits integers and numeric, t and f fit bool, JSON fits json and jsonb. Try: hash or nullify", *m.Redact, named(name))
	}
	return nil
}

func named(typeName string) string {
	if typeName == "" {
		return "one that is not known here"
	}
	return typeName
}

// masker applies masks. Not for concurrent use.
type masker struct {
	keys   map[string][]byte // by variable
	hashes map[string]hash.Hash
	buf    []byte
	sum    []byte
}

// mask is what stands in place of a value that is there. The result is good until the next call.
func (k *masker) mask(s *source, data []byte) []byte {
	switch s.kind {
	case "hash":
		h := k.hashes[s.mask.Hash]
		if h == nil {
			h = hmac.New(sha256.New, k.keys[s.mask.variable()])
			if k.hashes == nil {
				k.hashes = map[string]hash.Hash{}
			}
			k.hashes[s.mask.Hash] = h
		}
		h.Reset()
		h.Write(data)
		k.sum = h.Sum(k.sum[:0])
		k.buf = hex.AppendEncode(k.buf[:0], k.sum)
		return k.buf
	case "redact":
		return []byte(*s.mask.Redact)
	case "truncate":
		at := 0
		for range s.mask.Truncate {
			if at == len(data) {
				break
			}
			_, n := utf8.DecodeRune(data[at:])
			at += n
		}
		return data[:at]
	}
	return data
}
