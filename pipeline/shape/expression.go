package shape

import (
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
)

// kind is what a value is to an expression.
type kind uint8

const (
	broken     kind = iota // an error was told already
	nothing                // nil
	boolean                //
	numeric                // integers, numeric, floats, oid: exact decimals
	text                   // text, varchar, bpchar, name: compared byte by byte
	opaque                 // every other type: only its text form can be compared for equality
	momentary              // date, timestamp
	zonedTime              // timestamptz
	kindsCount             //
)

func (k kind) String() string {
	return [kindsCount]string{"", "nil", "a boolean", "a number", "a text", "a value of another type", "a date or timestamp", "a timestamptz"}[k]
}

// expression is the text of a filter, read and not yet bound to columns.
type expression struct {
	text string
	at   position
	root ast.Node
}

// expressionBytesMax is far more than a person writes.
const expressionBytesMax = 16 << 10

// parseExpression reads the text of a filter.
func parseExpression(source string, at position) (*expression, error) {
	if strings.Contains(source, "\n") {
		at = position{}
	}
	if len(source) > expressionBytesMax {
		return nil, fmt.Errorf("rows: an expression of %d bytes, at most %d are possible", len(source), expressionBytesMax)
	}
	e := &expression{text: source, at: at}
	tree, err := parser.Parse(source)
	var where *file.Error
	switch {
	case errors.As(err, &where):
		return nil, e.fault(where.Location, "%s", where.Message)
	case err != nil:
		return nil, fmt.Errorf("rows: %w", err)
	}
	e.root = tree.Node
	return e, nil
}

// fault is an error with the place in the text, and a pointer to it.
func (e *expression) fault(where file.Location, format string, args ...any) error {
	f := file.Error{Location: where, Message: fmt.Sprintf(format, args...)}
	f.Bind(file.NewSource(e.text))
	line, column := f.Line, f.Column+1
	if e.at.line > 0 {
		line, column = e.at.line, e.at.column+f.Column
	}
	lines := strings.Split(e.text, "\n")
	shown := strings.ReplaceAll(lines[f.Line-1], "\t", " ")
	return fmt.Errorf("rows, line %d, column %d: %s\n  | %s\n  | %s^", line, column, f.Message, shown, strings.Repeat(" ", f.Column))
}

// columnOf finds a column by its name.
type columnOf func(name string) (index int, k kind, ok bool)

// bind makes a filter of the expression, for rows with these columns. Every fault is in the error.
func (e *expression) bind(columns columnOf) (*filter, error) {
	c := compiler{e: e, columns: columns, used: map[int]bool{}}
	root := c.node(e.root)
	if len(c.errs) == 0 && root.kind != boolean {
		c.fail(e.root, "the expression is %s, and has to be a boolean", root.kind)
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	return &filter{eval: root.eval, used: c.used}, nil
}

// compiler makes functions of the nodes of one expression.
type compiler struct {
	e       *expression
	columns columnOf
	used    map[int]bool
	errs    []error
}

// typed is a compiled node.
type typed struct {
	kind    kind
	eval    func(row) (value, error)
	literal *string // a text that stands in the expression: next to a time it is one, too
}

func (c *compiler) fail(n ast.Node, format string, args ...any) typed {
	c.errs = append(c.errs, c.e.fault(n.Location(), format, args...))
	return typed{}
}

func constant(k kind, v value) typed {
	return typed{kind: k, eval: func(row) (value, error) { return v, nil }}
}

func (c *compiler) node(n ast.Node) typed {
	switch n := n.(type) {
	case *ast.NilNode:
		return constant(nothing, value{null: true})
	case *ast.BoolNode:
		return constant(boolean, value{truth: n.Value})
	case *ast.IntegerNode:
		return constant(numeric, value{number: number{small: int64(n.Value)}})
	case *ast.FloatNode:
		return c.decimal(n)
	case *ast.StringNode:
		t := constant(text, value{text: []byte(n.Value)})
		t.literal = &n.Value
		return t
	case *ast.IdentifierNode:
		return c.column(n, n.Value)
	case *ast.MemberNode:
		return c.member(n)
	case *ast.UnaryNode:
		return c.unary(n)
	case *ast.BinaryNode:
		return c.binary(n)
	case *ast.ConditionalNode:
		return c.conditional(n)
	case *ast.BuiltinNode:
		return c.call(n, n.Name, n.Arguments)
	case *ast.CallNode:
		if name, ok := n.Callee.(*ast.IdentifierNode); ok {
			return c.call(n, name.Value, n.Arguments)
		}
	}
	return c.fail(n, "this is not possible in a filter. Try: columns, constants, ==, !=, <, <=, >, >=, in, and, or, not, +, -, *, ?:, ??, matches, contains, startsWith, endsWith, lower, upper, trim, len, abs")
}

// decimal takes a number from the text of the expression, and not what a float makes of it.
func (c *compiler) decimal(n *ast.FloatNode) typed {
	runes := []rune(c.e.text)
	from, to := n.Location().From, n.Location().To
	if from < 0 || to > len(runes) || from >= to {
		return c.fail(n, "the number cannot be read")
	}
	r, ok := new(big.Rat).SetString(strings.ReplaceAll(string(runes[from:to]), "_", ""))
	if !ok {
		return c.fail(n, "the number cannot be read")
	}
	return constant(numeric, value{number: number{large: r}})
}

func (c *compiler) column(n ast.Node, name string) typed {
	i, k, ok := c.columns(name)
	if !ok {
		return c.fail(n, "the table has no column %q", name)
	}
	c.used[i] = true
	return typed{kind: k, eval: func(r row) (value, error) { return r.value(i, k) }}
}

// member is $env["name"], for names that are no identifiers.
func (c *compiler) member(n *ast.MemberNode) typed {
	of, isName := n.Node.(*ast.IdentifierNode)
	name, isText := n.Property.(*ast.StringNode)
	if !isName || !isText || of.Value != "$env" || n.Optional {
		return c.fail(n, `this is not possible in a filter. Try: $env["name"] for a column whose name is no word`)
	}
	return c.column(n, name.Value)
}

func (c *compiler) unary(n *ast.UnaryNode) typed {
	of := c.node(n.Node)
	switch n.Operator {
	case "not", "!":
		if !c.want(n.Node, of, boolean) {
			return typed{}
		}
		return typed{kind: boolean, eval: func(r row) (value, error) {
			v, err := of.eval(r)
			v.truth = !v.truth
			return v, err
		}}
	default: // + and -, there is no other
		if !c.want(n.Node, of, numeric) || n.Operator == "+" {
			return of
		}
		return typed{kind: numeric, eval: func(r row) (value, error) {
			v, err := of.eval(r)
			v.number = v.number.negate()
			return v, err
		}}
	}
}

// want says whether a node is of the kind, and notes a fault if not.
func (c *compiler) want(n ast.Node, t typed, k kind) bool {
	switch t.kind {
	case k:
		return true
	case broken:
	default:
		c.fail(n, "this is %s, and has to be %s", t.kind, k)
	}
	return false
}

func (c *compiler) conditional(n *ast.ConditionalNode) typed {
	cond, then, otherwise := c.node(n.Cond), c.node(n.Exp1), c.node(n.Exp2)
	c.alike(n, &then, &otherwise)
	if !c.want(n.Cond, cond, boolean) || then.kind == broken || otherwise.kind == broken {
		return typed{}
	}
	k := then.kind
	if k == nothing {
		k = otherwise.kind
	}
	return typed{kind: k, eval: func(r row) (value, error) {
		v, err := cond.eval(r)
		switch {
		case err != nil:
			return v, err
		case v.truth && !v.null:
			return then.eval(r)
		}
		return otherwise.eval(r)
	}}
}

// alike makes two operands comparable: a text that stands in the expression becomes what is on the other side. Else it notes a
// fault, and breaks both.
func (c *compiler) alike(n ast.Node, a, b *typed) {
	if a.kind == broken || b.kind == broken {
		*a, *b = typed{}, typed{}
		return
	}
	for _, pair := range [2][2]*typed{{a, b}, {b, a}} {
		lit, other := pair[0], pair[1]
		if lit.literal == nil {
			continue
		}
		switch other.kind {
		case opaque:
			lit.kind = opaque
		case momentary, zonedTime:
			*lit = c.moment(n, *lit.literal, other.kind)
		}
	}
	if a.kind == broken || b.kind == broken {
		*a, *b = typed{}, typed{}
		return
	}
	if a.kind != b.kind && a.kind != nothing && b.kind != nothing {
		c.fail(n, "%s and %s cannot be put together", a.kind, b.kind)
		*a, *b = typed{}, typed{}
	}
}

func (c *compiler) moment(n ast.Node, literal string, k kind) typed {
	m, zoned, err := parseMoment(literal)
	finite := m != endOfTime && m != beginOfTime
	switch {
	case err != nil:
		return c.fail(n, `%q is %s. Try: "2026-01-31" or "2026-01-31 12:00:00"`, literal, err)
	case k == zonedTime && !zoned:
		return c.fail(n, "%q has no offset from UTC, and a timestamptz has one. Try: %q", literal, utc(literal))
	case k == momentary && zoned && finite:
		return c.fail(n, "%q has an offset from UTC, and a timestamp or date has none", literal)
	}
	return constant(k, value{moment: m})
}

func utc(literal string) string {
	if len(literal) <= len("2026-01-31") {
		literal += " 00:00"
	}
	return literal + "Z"
}

var functions = map[string]struct {
	of, result kind
	do         func(value) value
}{
	"lower": {text, text, func(v value) value { return value{text: []byte(strings.ToLower(string(v.text)))} }},
	"upper": {text, text, func(v value) value { return value{text: []byte(strings.ToUpper(string(v.text)))} }},
	"trim":  {text, text, func(v value) value { return value{text: []byte(strings.Trim(string(v.text), " "))} }},
	"len":   {text, numeric, func(v value) value { return value{number: number{small: int64(len([]rune(string(v.text))))}} }},
	"abs": {numeric, numeric, func(v value) value {
		if v.number.special != notANumber && v.number.sign() < 0 {
			v.number = v.number.negate()
		}
		return v
	}},
}

func (c *compiler) call(n ast.Node, name string, arguments []ast.Node) typed {
	f, ok := functions[name]
	if !ok {
		return c.fail(n, "there is no function %s. Try: lower, upper, trim, len, abs", name)
	}
	if len(arguments) != 1 {
		return c.fail(n, "%s has one argument, not %s", name, strconv.Itoa(len(arguments)))
	}
	of := c.node(arguments[0])
	if !c.want(arguments[0], of, f.of) {
		return typed{}
	}
	return typed{kind: f.result, eval: func(r row) (value, error) {
		v, err := of.eval(r)
		if err != nil || v.null {
			return v, err
		}
		return f.do(v), nil
	}}
}

// pattern of matches, which has to stand in the expression.
func (c *compiler) regexp(n ast.Node, t typed) *regexp.Regexp {
	if t.literal == nil {
		c.fail(n, "the pattern of matches has to stand here")
		return nil
	}
	re, err := regexp.Compile(*t.literal)
	if err != nil {
		c.fail(n, "%s", err)
	}
	return re
}
