// Package dsn handles connection strings without knowing what they connect to: it fills in ${VAR} references,
// says whether a password stands in one, and takes passwords out before something is printed or stored. It is a
// leaf; every stage that connects to PostgreSQL uses it.
//
// A DSN has one of libpq's two forms: a URL (postgres://user:password@host/db?key=value) or keywords
// (host=h password='p'). See the PostgreSQL documentation, chapter "Connection Strings".
package dsn

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Mask stands where a password was.
const Mask = "xxxxx"

// reference finds "${", and the whole reference when it is well formed.
var reference = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*\})?`)

// Expand replaces every ${VAR} by what lookup returns (os.LookupEnv, as a rule). The value is taken as it is and
// quoted for its place, so a password may contain any character. A reference at the very beginning stands for
// the beginning of the DSN (or all of it) and one in a URL's host part for hosts and ports: these are not quoted.
// Expand is called where the connection is made, so what is stored and passed around never holds the secret.
func Expand(dsn string, lookup func(name string) (string, bool)) (string, error) {
	var out strings.Builder
	for rest := dsn; ; {
		at := reference.FindStringSubmatchIndex(rest)
		if at == nil {
			out.WriteString(rest)
			return out.String(), nil
		}
		out.WriteString(rest[:at[0]])
		if at[2] < 0 {
			return "", fmt.Errorf("DSN %q: a \"${\" without a variable's name and \"}\". Try: ${NAME}, or %%24{ in a URL for the characters themselves", Redact(dsn))
		}
		name := rest[at[2] : at[3]-1]
		value, ok := lookup(name)
		if !ok {
			return "", fmt.Errorf("DSN %q refers to ${%s}, which is not set. Try: set the environment variable %s for the process that connects", Redact(dsn), name, name)
		}
		out.WriteString(quote(out.String(), value))
		rest = rest[at[1]:]
	}
}

// quote makes value fit behind what stands before it.
func quote(before, value string) string {
	if before == "" {
		return value
	}
	rest, isURL := cutScheme(before)
	if !isURL {
		return strings.NewReplacer(`\`, `\\`, `'`, `\'`, " ", `\ `, "\t", "\\\t", "\n", "\\\n").Replace(value)
	}
	if _, host, ok := strings.Cut(rest, "@"); ok && !strings.ContainsAny(host, "/?") {
		return value
	}
	return strings.ReplaceAll(url.QueryEscape(value), "+", "%20")
}

// Redact masks the passwords of a DSN. References stay readable.
func Redact(dsn string) string {
	var out strings.Builder
	end := 0
	for _, s := range secrets(dsn) {
		if literal(dsn[s.from:s.to]) == "" {
			continue
		}
		out.WriteString(dsn[end:s.from])
		out.WriteString(Mask)
		end = s.to
	}
	out.WriteString(dsn[end:])
	return out.String()
}

// HasPassword says whether a password stands in the DSN in clear. A reference is none.
func HasPassword(dsn string) bool {
	for _, s := range secrets(dsn) {
		if literal(dsn[s.from:s.to]) != "" {
			return true
		}
	}
	return false
}

// Scrub takes the passwords of an expanded DSN out of a text, an error's for example.
func Scrub(text, expanded string) string {
	text = strings.ReplaceAll(text, expanded, Redact(expanded))
	for _, s := range secrets(expanded) {
		raw := expanded[s.from:s.to]
		for _, secret := range []string{raw, decodeURL(raw), unescape(raw)} {
			if secret != "" {
				text = strings.ReplaceAll(text, secret, Mask)
			}
		}
	}
	return text
}

// literal is what a value has besides references.
func literal(value string) string { return reference.ReplaceAllString(value, "") }

// span is a part of a DSN that holds a password.
type span struct{ from, to int }

// secrets finds the passwords. In a malformed DSN it would rather take too much.
func secrets(dsn string) []span {
	if rest, ok := cutScheme(dsn); ok {
		return urlSecrets(rest, len(dsn)-len(rest))
	}
	if at := strings.LastIndexByte(dsn, '@'); at >= 0 && KindOf(dsn) != Files { // user:password@tcp(host:3306)/database, MYSQL://user:password@host: no DSN here, but a password
		if colon := strings.IndexAny(dsn[:at], ":="); colon >= 0 && dsn[colon] == ':' {
			return []span{{colon + 1, at}}
		}
	}
	return keywordSecrets(dsn)
}

func cutScheme(dsn string) (rest string, ok bool) {
	for _, scheme := range []string{"postgres://", "postgresql://", "mysql://", "mariadb://"} {
		if rest, ok := strings.CutPrefix(dsn, scheme); ok {
			return rest, true
		}
	}
	return "", false
}

var number = regexp.MustCompile(`^[0-9,:]*$`)

func urlSecrets(p string, base int) (spans []span) {
	end := strings.IndexAny(p, "@/?")
	if end < 0 || p[end] != '@' {
		end = -1
		// An unencoded '/' or '?' in a password makes it look like a port and a path.
		if at := strings.LastIndexByte(p, '@'); at >= 0 {
			head := p[:strings.IndexAny(p, "@/?")]
			if _, port, ok := strings.Cut(head, ":"); ok && !number.MatchString(port) && !strings.HasPrefix(head, "[") {
				end = at
			} else if i := strings.IndexByte(p, '@'); strings.IndexByte(p, '?') < 0 || i < strings.IndexByte(p, '?') {
				end = at
			}
		}
	} else if host := strings.IndexAny(p[end:], "/?"); host < 0 { // an unencoded '@' in a password: the last one ends it
		end = strings.LastIndexByte(p, '@')
	} else {
		end = strings.LastIndexByte(p[:end+host], '@')
	}
	if end >= 0 {
		if colon := strings.IndexByte(p[:end], ':'); colon >= 0 {
			spans = append(spans, span{base + colon + 1, base + end})
		}
	}
	query := strings.IndexByte(p[max(end, 0):], '?')
	if query < 0 {
		return spans
	}
	at := max(end, 0) + query + 1
	for _, pair := range strings.Split(p[at:], "&") {
		if key, value, ok := strings.Cut(pair, "="); ok && secretKey(decodeURL(key)) {
			spans = append(spans, span{base + at + len(pair) - len(value), base + at + len(pair)})
		}
		at += len(pair) + 1
	}
	return spans
}

const space = " \t\n\r\v\f"

func keywordSecrets(s string) (spans []span) {
	for at := 0; at < len(s); {
		eq := strings.IndexByte(s[at:], '=')
		if eq < 0 {
			return spans
		}
		key := strings.Trim(s[at:at+eq], space)
		if i := strings.LastIndexAny(key, space); i >= 0 {
			key = key[i+1:] // malformed; the word before "=" decides
		}
		at += eq + 1
		for at < len(s) && strings.IndexByte(space, s[at]) >= 0 {
			at++
		}
		from, to, next := keywordValue(s, at)
		if secretKey(key) {
			spans = append(spans, span{from, to})
		}
		at = next
	}
	return spans
}

// keywordValue finds where a value that begins at s[at] stands, and where the next keyword may begin.
func keywordValue(s string, at int) (from, to, next int) {
	quoted := at < len(s) && s[at] == '\''
	if quoted {
		at++
	}
	from = at
	for ; at < len(s); at++ {
		switch {
		case s[at] == '\\':
			at++
		case quoted && s[at] == '\'':
			return from, at, at + 1
		case !quoted && strings.IndexByte(space, s[at]) >= 0:
			return from, at, at
		}
	}
	return from, len(s), len(s)
}

func secretKey(key string) bool {
	switch strings.ToLower(key) {
	case "password", "sslpassword", "passwd", "pass", "pwd": // the last three nobody takes, but they are tried
		return true
	}
	return false
}

func decodeURL(s string) string {
	if d, err := url.PathUnescape(s); err == nil {
		return d
	}
	return s
}

// unescape undoes the keyword form's backslashes.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
