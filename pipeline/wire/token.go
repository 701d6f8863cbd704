package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	// tokenBytesMax bounds a token's length; a longer name is cut and a hash of the whole follows.
	tokenBytesMax = 200
	hashMark      = "==" // never part of a token that is not cut
	hashBytes     = 16
	upperHex      = "0123456789ABCDEF"
)

// EncodeToken makes a name one token of a subject, also allowed in names of streams and keys of a KV bucket:
// [A-Za-z0-9_-] stand for themselves, every other byte and a leading '_' is =XX in hexadecimal, the empty name is
// "=". What would exceed 200 bytes is cut and ends with "==" and a hash of the name: different names always
// have different tokens.
func EncodeToken(name string) string {
	if name == "" {
		return "="
	}
	var b strings.Builder
	b.Grow(len(name))
	for i := range len(name) {
		if c := name[i]; literal(c) && (i > 0 || c != '_') {
			b.WriteByte(c)
		} else {
			b.WriteByte('=')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
	}
	if b.Len() <= tokenBytesMax {
		return b.String()
	}
	return cutToken(b.String(), name)
}

func cutToken(token, name string) string {
	n := tokenBytesMax - len(hashMark) - 2*hashBytes
	if i := strings.LastIndexByte(token[:n], '='); i > n-3 { // not through the middle of =XX
		n = i
	}
	hash := sha256.Sum256([]byte(name))
	return token[:n] + hashMark + hex.EncodeToString(hash[:hashBytes])
}

func literal(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// DecodeToken gives the name back. A token that was cut has lost it; the name then stands in the message.
func DecodeToken(token string) (string, error) {
	if token == "=" {
		return "", nil
	}
	if strings.Contains(token, hashMark) {
		return "", fmt.Errorf("token %q is a cut name with a hash; the name itself is in the message", token)
	}
	name := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		if token[i] != '=' {
			name = append(name, token[i])
			continue
		}
		if len(token)-i < 3 {
			return "", fmt.Errorf("token %q: %q is no =XX", token, token[i:])
		}
		hi, lo := strings.IndexByte(upperHex, token[i+1]), strings.IndexByte(upperHex, token[i+2])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("token %q: %q is no =XX", token, token[i:i+3])
		}
		name = append(name, byte(hi<<4|lo))
		i += 2
	}
	if EncodeToken(string(name)) != token { // one name, one token
		return "", fmt.Errorf("token %q is not what EncodeToken makes of %q", token, name)
	}
	return string(name), nil
}
