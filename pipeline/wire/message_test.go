package wire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		StreamName("orders"):                  "CDC_orders",
		Subject("orders"):                     "cdc.orders._tx",
		EpochSubject("orders"):                "cdc.orders._ctl.epoch",
		WatermarkSubject("orders"):            "cdc.orders._ctl.watermark",
		TableSubject("orders", "_ctl", "a.b"): "cdc.orders.=5Fctl.a=2Eb",
		AllSubjects("orders"):                 "cdc.orders.>",
		StreamName("a b>"):                    "CDC_a=20b=3E",
		EncodeToken(""):                       "=",
		EncodeToken("="):                      "=3D",
		EncodeToken("a_b-C9"):                 "a_b-C9",
		EncodeToken("é*"):                     "=C3=A9=2A",
		EncodeToken(strings.Repeat("x", 200)): strings.Repeat("x", 200),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for name, prefix := range map[string]string{
		strings.Repeat("x", 201):            strings.Repeat("x", 166) + "==",
		"a" + strings.Repeat(" ", 201):      "a" + strings.Repeat("=20", 55) + "==",
		"ab" + strings.Repeat(" ", 201):     "ab" + strings.Repeat("=20", 54) + "==",
		"abc" + strings.Repeat(" ", 201):    "abc" + strings.Repeat("=20", 54) + "==",
		strings.Repeat(" ", 201) + "suffix": strings.Repeat("=20", 55) + "==",
	} {
		token := EncodeToken(name)
		if !strings.HasPrefix(token, prefix) || len(token) != len(prefix)+32 {
			t.Errorf("%q, want %q and a hash", token, prefix)
		}
	}
}

func TestTokenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := string(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "name"))
		token := EncodeToken(name)
		if len(token) > tokenBytesMax || strings.ContainsAny(token, ".*> \t\r\n\\/") || token == "" || token[0] == '_' {
			t.Fatalf("token %q", token)
		}
		got, err := DecodeToken(token)
		if strings.Contains(token, hashMark) {
			if err == nil {
				t.Fatal("decoded a cut token")
			}
			if EncodeToken(name+"x") == token {
				t.Fatal("two names, one token")
			}
		} else if err != nil || got != name {
			t.Fatalf("%q: %q, %v", token, got, err)
		}
	})
}

func TestDecodeTokenRefuses(t *testing.T) {
	for _, token := range []string{"", "_a", "=4", "=4x", "=4g", "=5f", "=41", "a.b", "a==00", "é"} {
		if name, err := DecodeToken(token); err == nil {
			t.Errorf("%q: accepted as %q", token, name)
		}
	}
}

func TestSplitCollect(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		c := NewCollector(100)
		for range rapid.IntRange(1, 4).Draw(t, "payloads") {
			payload := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "payload")
			parts := Split(payload, limit)
			crash := rapid.IntRange(0, len(parts)-1).Draw(t, "crash after") // the writer before left these
			for k := range crash {
				if _, complete, err := c.Add(PartHeader(k+1, len(parts)), parts[k]); complete || err != nil {
					t.Fatal(complete, err)
				}
			}
			for k, part := range parts {
				header := PartHeader(k+1, len(parts))
				if len(parts) == 1 && rapid.Bool().Draw(t, "no header") {
					header = ""
				}
				if len(part) > limit {
					t.Fatalf("part of %d bytes", len(part))
				}
				got, complete, err := c.Add(header, part)
				if err != nil || complete != (k == len(parts)-1) || complete && !bytes.Equal(got, payload) {
					t.Fatal(got, complete, err)
				}
			}
			if c.Pending() {
				t.Fatal("pending after a whole payload")
			}
		}
	})
}

func TestCollector(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"whole":                   {"- ab", "ab"},
		"parts":                   {"1/3 a|2/3 b|3/3 c", "abc"},
		"crash, then parts":       {"1/3 a|2/3 b|1/2 x|2/2 y", "xy"},
		"crash, then whole":       {"1/3 a|- whole", "whole"},
		"crash, whole, next part": {"1/3 a|- w|2/3 b", "w, part 2/3 of a payload follows no first part"},
		"starts in the middle":    {"2/3 b", "part 2/3 of a payload follows no first part"},
		"missing":                 {"1/3 a|3/3 c", "part 3/3 of a payload follows part 1/3"},
		"twice":                   {"1/3 a|2/3 b|2/3 b", "part 2/3 of a payload follows part 2/3"},
		"other count":             {"1/3 a|2/4 b", "part 2/4 of a payload follows part 1/3"},
		"after an error":          {"1/3 a|3/3 c|2/3 b", "part 3/3 of a payload follows part 1/3, part 2/3 of a payload follows no first part"},
		"empty part":              {"1/3 a|2/3 ", "part 2/3 of a payload is empty"},
		"too large":               {"1/9 123456|2/9 789", "payload of 9 parts exceeds 8 bytes at part 2. Try: raise the reader's limit of bytes"},
		"header 0":                {"0/3 a", `header Cdc-Part "0/3": want k/n with 1 <= k <= n`},
		"header beyond":           {"4/3 a", `header Cdc-Part "4/3": want k/n with 1 <= k <= n`},
		"header sign":             {"+1/3 a", `header Cdc-Part "+1/3": want k/n with 1 <= k <= n`},
		"header text":             {"1 a", `header Cdc-Part "1": want k/n with 1 <= k <= n`},
	} {
		collector, got := NewCollector(8), []string{}
		for step := range strings.SplitSeq(c.script, "|") {
			part, data, _ := strings.Cut(step, " ")
			payload, complete, err := collector.Add(strings.TrimPrefix(part, "-"), []byte(data))
			if err != nil {
				got = append(got, err.Error())
			} else if complete {
				got = append(got, string(payload))
			}
		}
		if joined := strings.Join(got, ", "); joined != c.want {
			t.Errorf("%s: %s, want %s", name, joined, c.want)
		}
	}
}

func TestSplitRefusesNoLimit(t *testing.T) {
	defer func() {
		if r := recover(); fmt.Sprint(r) != "wire: parts of 0 bytes" {
			t.Error(r)
		}
	}()
	Split(nil, 0)
}
