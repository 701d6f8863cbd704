// Package gid says which fragments belong together: it maps the name that a coordinator gave to PREPARE
// TRANSACTION on one shard to the id that all fragments of the distributed transaction share.
//
//	rules, err := gid.New(userRules)
//	rules.Global("citus_0_1108_13_1") // citus_0_1108_13
//
// A rule is a regular expression for the whole gid and a template for the global id. The first rule that matches
// decides: the user's come first, then the built-in ones (builtin.go). A gid that no rule matches is its own
// global id, which is right for every coordinator that gives one name to all fragments.
//
// Both kinds of mistake are grave. A gid that keeps its suffix parts a transaction into pieces that leave at
// different times; one that loses too much joins unrelated transactions. So the built-in rules match only what
// their coordinators can have made, and leave doubtful names alone: a coordinator that lets the application
// choose a part of the gid freely (dtm does, optionally) may need a rule of the user's.
package gid

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Rule maps gids of one form to global ids.
type Rule struct {
	// Pattern is a regular expression (RE2 syntax). It has to match the whole gid.
	Pattern string
	// Template makes the global id: $1, ${1}, $name and ${name} stand for groups of the pattern, $0 for the
	// whole gid, $$ for a dollar sign. It has to name a group: a constant would join unrelated transactions.
	Template string
}

// Rules is an ordered list of rules. It does not change, and may be used by several goroutines.
type Rules struct {
	rules []rule
}

// rule is a Rule, compiled.
type rule struct {
	re       *regexp.Regexp
	template string
	groups   []int                 // that the template names
	alone    bool                  // the template is one group and nothing else
	prefix   string                // every match begins with it
	likely   func(gid string) bool // a cheap test that every match passes; nil: none
}

// New makes the list of the user's rules, which come first, and the built-in ones. The error lists every fault of
// every rule, by its number, counted from 1.
func New(user []Rule) (*Rules, error) {
	r := &Rules{rules: make([]rule, 0, len(user)+len(builtin))}
	var faults []error
	for i, u := range user {
		c, err := compile(u)
		if err != nil {
			faults = append(faults, fmt.Errorf("gid rule %d (pattern %q, template %q): %w", i+1, u.Pattern, u.Template, err))
			continue
		}
		r.rules = append(r.rules, c)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	r.rules = append(r.rules, builtin...)
	return r, nil
}

// Global is the id that all fragments of gid's transaction share. It is never empty unless gid is.
func (r *Rules) Global(gid string) string {
	for i := range r.rules {
		if id, ok := r.rules[i].apply(gid); ok {
			return id
		}
	}
	return gid
}

// apply returns the global id if the rule matches. A match whose groups are all empty says nothing about the
// transaction: it would join it with every other such one, so it does not count.
func (r *rule) apply(gid string) (string, bool) {
	if !strings.HasPrefix(gid, r.prefix) || (r.likely != nil && !r.likely(gid)) {
		return "", false
	}
	at := r.re.FindStringSubmatchIndex(gid)
	if at == nil {
		return "", false
	}
	if r.alone {
		g := r.groups[0]
		return group(gid, at, g), at[2*g] < at[2*g+1]
	}
	for _, g := range r.groups {
		if at[2*g] < at[2*g+1] {
			return string(r.re.ExpandString(nil, r.template, gid, at)), true
		}
	}
	return "", false
}

// group is the text of a group, empty if it took no part in the match.
func group(gid string, at []int, g int) string {
	if at[2*g] < 0 {
		return ""
	}
	return gid[at[2*g]:at[2*g+1]]
}

func compile(r Rule) (rule, error) {
	if r.Pattern == "" {
		return rule{}, errors.New(`the pattern is empty. Try: a regular expression with a group, like app_(\d+)_\d+`)
	}
	bare, err := regexp.Compile(r.Pattern)
	if err != nil {
		return rule{}, fmt.Errorf("the pattern is not a regular expression: %w", err)
	}
	whole, err := regexp.Compile(`\A(?:` + r.Pattern + `)\z`)
	if err != nil {
		return rule{}, fmt.Errorf("the pattern does not stand on its own: %w", err)
	}
	c := rule{re: whole, template: r.Template}
	c.prefix, _ = bare.LiteralPrefix()
	c.groups, c.alone, err = references(r.Template, whole)
	return c, err
}

// references finds the groups that a template names, and says whether it is one of them alone.
func references(template string, re *regexp.Regexp) (groups []int, alone bool, err error) {
	for rest := template; ; {
		i := strings.IndexByte(rest, '$')
		if i < 0 {
			break
		}
		rest = rest[i+1:]
		if strings.HasPrefix(rest, "$") {
			rest = rest[1:]
			continue
		}
		name, n := reference(rest)
		if n == 0 {
			return nil, false, fmt.Errorf("the template has a $ without a group's name after it. Try: ${1} for a group, $$ for a dollar sign")
		}
		g := find(re, name)
		if g < 0 {
			return nil, false, fmt.Errorf("the template names group %q, but the pattern has %s. Try: ${1}, with the braces, before a letter, digit or underscore",
				name, describe(re))
		}
		alone = len(groups) == 0 && 1+n == len(template)
		groups = append(groups, g)
		rest = rest[n:]
	}
	if len(groups) == 0 {
		return nil, false, errors.New("the template names no group of the pattern, so all gids that match would be one transaction. Try: $1, and parentheses in the pattern around what the fragments share")
	}
	return groups, alone, nil
}

// reference reads a group's name at the start of s, as regexp.Expand does, and says how long it is; 0 if there
// is none.
func reference(s string) (name string, n int) {
	if strings.HasPrefix(s, "{") {
		end := strings.IndexByte(s, '}')
		if end < 2 || word(s[1:end]) != end-1 {
			return "", 0
		}
		return s[1:end], end + 1
	}
	n = word(s)
	return s[:n], n
}

// word is the length of the letters, digits and underscores that s begins with.
func word(s string) int {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return i
		}
	}
	return len(s)
}

// find returns the number of a group by its name or number, -1 if there is none.
func find(re *regexp.Regexp, name string) int {
	if strings.Trim(name, "0123456789") != "" {
		return re.SubexpIndex(name)
	}
	g := 0
	for _, d := range name {
		g = g*10 + int(d-'0')
		if g > re.NumSubexp() {
			return -1
		}
	}
	if len(name) > 1 && name[0] == '0' {
		return -1
	}
	return g
}

// describe lists the groups of a pattern.
func describe(re *regexp.Regexp) string {
	if re.NumSubexp() == 0 {
		return "no groups"
	}
	names := make([]string, 0, re.NumSubexp())
	for i, name := range re.SubexpNames()[1:] {
		if name == "" {
			name = fmt.Sprint(i + 1)
		}
		names = append(names, name)
	}
	return "the groups " + strings.Join(names, ", ")
}
