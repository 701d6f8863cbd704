package shape

import (
	"bytes"
	"regexp"

	"github.com/expr-lang/expr/ast"
)

func (c *compiler) binary(n *ast.BinaryNode) typed {
	if n.Operator == "in" {
		return c.in(n)
	}
	a, b := c.node(n.Left), c.node(n.Right)
	switch n.Operator {
	case "and", "&&", "or", "||":
		return c.logic(n, a, b)
	case "==", "!=", "<", "<=", ">", ">=":
		return c.comparison(n, a, b)
	case "matches", "contains", "startsWith", "endsWith":
		return c.search(n, a, b)
	case "+", "-", "*":
		return c.arithmetic(n, a, b)
	case "??":
		return c.coalesce(n, a, b)
	}
	return c.fail(n, "the operator %s is not possible in a filter. Try: ==, !=, <, <=, >, >=, in, and, or, not, +, -, *, ??, matches, contains, startsWith, endsWith", n.Operator)
}

// logic is SQL's: NULL is neither true nor false.
func (c *compiler) logic(n *ast.BinaryNode, a, b typed) typed {
	okA, okB := c.want(n.Left, a, boolean), c.want(n.Right, b, boolean)
	if !okA || !okB {
		return typed{}
	}
	decides := n.Operator == "or" || n.Operator == "||" // the value of one side that decides
	return typed{kind: boolean, eval: func(r row) (value, error) {
		v, err := a.eval(r)
		if err != nil || !v.null && v.truth == decides {
			return v, err
		}
		w, err := b.eval(r)
		if err != nil || !w.null && w.truth == decides {
			return w, err
		}
		return value{null: v.null || w.null, truth: !decides}, nil
	}}
}

func (c *compiler) comparison(n *ast.BinaryNode, a, b typed) typed {
	c.alike(n, &a, &b)
	if a.kind == broken {
		return typed{}
	}
	equality := n.Operator == "==" || n.Operator == "!="
	k := a.kind
	if k == nothing || b.kind == nothing {
		if !equality {
			return c.fail(n, "nothing is %s nil: a comparison with NULL is never true. Try: == nil or != nil", n.Operator)
		}
		return isNull(a, b, n.Operator == "==")
	}
	if !equality && (k == opaque || k == boolean) {
		return c.fail(n, "%s has no order here. Try: == or !=", k)
	}
	holds := map[string]func(int) bool{
		"==": func(i int) bool { return i == 0 }, "!=": func(i int) bool { return i != 0 },
		"<": func(i int) bool { return i < 0 }, "<=": func(i int) bool { return i <= 0 },
		">": func(i int) bool { return i > 0 }, ">=": func(i int) bool { return i >= 0 },
	}[n.Operator]
	return both(a, b, func(v, w value) value { return value{truth: holds(compare(k, v, w))} }, boolean)
}

// isNull asks whether what stands beside nil is NULL.
func isNull(a, b typed, want bool) typed {
	if a.kind == nothing {
		a = b
	}
	return typed{kind: boolean, eval: func(r row) (value, error) {
		v, err := a.eval(r)
		return value{truth: v.null == want}, err
	}}
}

// both evaluates two operands; if one is NULL, so is the result.
func both(a, b typed, do func(v, w value) value, result kind) typed {
	return typed{kind: result, eval: func(r row) (value, error) {
		v, err := a.eval(r)
		if err != nil || v.null {
			return v, err
		}
		w, err := b.eval(r)
		if err != nil || w.null {
			return w, err
		}
		return do(v, w), nil
	}}
}

func compare(k kind, v, w value) int {
	switch k {
	case boolean:
		if v.truth == w.truth {
			return 0
		}
		return 1
	case numeric:
		return v.number.compare(w.number)
	case momentary, zonedTime:
		return v.moment.compare(w.moment)
	}
	return bytes.Compare(v.text, w.text)
}

// in is == with each of a list. NULL is in no list; and neither in it nor not.
func (c *compiler) in(n *ast.BinaryNode) typed {
	a := c.node(n.Left)
	list, ok := n.Right.(*ast.ArrayNode)
	if !ok {
		return c.fail(n.Right, `a list has to stand behind in. Try: in ["a", "b"]`)
	}
	if a.kind == nothing {
		return c.fail(n.Left, "NULL is in no list. Try: == nil")
	}
	var of [][2]typed // an element, and what stands on the left as it is beside it: a text that stands here may be a time
	for _, element := range list.Nodes {
		b, left := c.node(element), a
		if b.kind == nothing {
			return c.fail(element, "NULL is in no list. Try: == nil beside it")
		}
		if c.alike(element, &left, &b); b.kind == broken {
			return typed{}
		}
		of = append(of, [2]typed{left, b})
	}
	if a.kind == broken {
		return typed{}
	}
	return typed{kind: boolean, eval: func(r row) (value, error) {
		out := value{}
		for _, pair := range of {
			v, err := pair[0].eval(r)
			if err != nil || v.null {
				return v, err
			}
			w, err := pair[1].eval(r)
			switch {
			case err != nil:
				return w, err
			case w.null:
				out.null = true
			case compare(pair[1].kind, v, w) == 0:
				return value{truth: true}, nil
			}
		}
		return out, nil
	}}
}

func (c *compiler) search(n *ast.BinaryNode, a, b typed) typed {
	okA, okB := c.want(n.Left, a, text), c.want(n.Right, b, text)
	if !okA || !okB {
		return typed{}
	}
	var re *regexp.Regexp
	if n.Operator == "matches" {
		if re = c.regexp(n.Right, b); re == nil {
			return typed{}
		}
	}
	found := map[string]func(text, part []byte) bool{
		"contains": bytes.Contains, "startsWith": bytes.HasPrefix, "endsWith": bytes.HasSuffix,
		"matches": func(text, _ []byte) bool { return re.Match(text) },
	}[n.Operator]
	return both(a, b, func(v, w value) value { return value{truth: found(v.text, w.text)} }, boolean)
}

func (c *compiler) arithmetic(n *ast.BinaryNode, a, b typed) typed {
	okA, okB := c.want(n.Left, a, numeric), c.want(n.Right, b, numeric)
	if !okA || !okB {
		return typed{}
	}
	do := map[string]func(a, b number) number{
		"+": number.add, "*": number.multiply, "-": func(a, b number) number { return a.add(b.negate()) },
	}[n.Operator]
	return both(a, b, func(v, w value) value { return value{number: do(v.number, w.number)} }, numeric)
}

// coalesce is the right side where the left one is NULL.
func (c *compiler) coalesce(n *ast.BinaryNode, a, b typed) typed {
	c.alike(n, &a, &b)
	if a.kind == broken || a.kind == nothing {
		return b
	}
	return typed{kind: a.kind, eval: func(r row) (value, error) {
		v, err := a.eval(r)
		if err != nil || !v.null {
			return v, err
		}
		return b.eval(r)
	}}
}
