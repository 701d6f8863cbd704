package shape

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// Parse reads a file of rules in YAML (or JSON, which is YAML). name is the file's, for messages. Every fault is in the error: a
// key that is unknown, a rule that cannot be followed, an expression that cannot be read, with line and column.
func Parse(name string, data []byte) (*Shape, error) {
	s := &Shape{}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	switch err := d.Decode(s); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s is empty. Try: tables: [{table: public.*, …}]", name)
	case err != nil:
		return nil, plainer(name, err)
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: want one document, without another behind ---", name)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return nil, plainer(name, err)
	}
	s.locate(&root)
	if err := s.Validate(); err != nil {
		var errs []error
		for _, e := range unjoin(err) {
			errs = append(errs, fmt.Errorf("%s: %w", name, e))
		}
		return nil, errors.Join(errs...)
	}
	return s, nil
}

// unjoin takes errors.Join apart.
func unjoin(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

var (
	unknownKey = regexp.MustCompile(`^line (\d+): field (.*) not found in type shape\.(\w+)$`)
	typeName   = regexp.MustCompile(`shape\.(\w+)`)
	keysOf     = map[string]string{
		"Shape": "tables",
		"Table": "table, exclude, columns, exclude_columns, rows, rename, rename_columns, mask, route, key",
		"Mask":  "hash, redact, truncate, nullify",
	}
)

// plainer says what the decoder found in words that do not speak of Go.
func plainer(name string, err error) error {
	var wrong *yaml.TypeError
	if !errors.As(err, &wrong) {
		return fmt.Errorf("%s: %w", name, err)
	}
	errs := make([]error, len(wrong.Errors))
	for i, text := range wrong.Errors {
		if m := unknownKey.FindStringSubmatch(text); m != nil {
			errs[i] = fmt.Errorf("%s: line %s: key %q is unknown. Try: %s", name, m[1], m[2], keysOf[m[3]])
			continue
		}
		errs[i] = fmt.Errorf("%s: %s", name, typeName.ReplaceAllString(text, "a rule"))
	}
	return errors.Join(errs...)
}

// locate notes where the rules and their expressions stand.
func (s *Shape) locate(root *yaml.Node) {
	if root.Kind != yaml.DocumentNode || len(root.Content) == 0 {
		return
	}
	tables := child(root.Content[0], "tables")
	if tables == nil || len(tables.Content) != len(s.Tables) {
		return
	}
	for i, rule := range tables.Content {
		s.Tables[i].line = rule.Line
		rows := child(rule, "rows")
		if rows == nil {
			continue
		}
		at := position{line: rows.Line, column: rows.Column}
		switch rows.Style {
		case yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle:
			at.column++
		case 0:
		default:
			at = position{}
		}
		s.Tables[i].rows = at
	}
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// UnmarshalJSON reads a shape as it is stored.
func (s *Shape) UnmarshalJSON(b []byte) error {
	type plain Shape
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode((*plain)(s)); err != nil {
		return fmt.Errorf("shape: %w. Try: upgrade", err)
	}
	return nil
}
