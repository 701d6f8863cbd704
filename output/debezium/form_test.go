package debezium

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"shardcdc/pipeline/format"
)

// TestForms has types that the server of these tests does not know, and values that its version does not.
func TestForms(t *testing.T) {
	defaults := options(t, nil)
	iso := options(t, []string{"interval=string"})
	for _, c := range []struct {
		opts       *format.DebeziumOptions
		name, text string
		want, node string
	}{
		{&defaults, "geometry", "0101000020730C00001C7C613255DE6540787AA52C435C42C0", `{"wkb":"AQEAACBzDAAAHHxhMlXeZUB4eqUsQ1xCwA==","srid":3187}`, `"name":"io.debezium.data.geometry.Geometry"`},
		{&defaults, "geometry", "0101000000000000000000F03F000000000000F03F", `{"wkb":"AQEAAAAAAAAAAADwPwAAAAAAAPA/","srid":null}`, `"doc":"Geometry"`},
		{&defaults, "geography", "0020000001000010E63FF00000000000003FF0000000000000", `{"wkb":"ACAAAAEAABDmP/AAAAAAAAA/8AAAAAAAAA==","srid":4326}`, `"doc":"Geography"`},
		{&defaults, "geometry", "no hex", `"no hex"`, `"type":"struct"`},
		{&defaults, "vector", "[1,2.5,-3]", `[1.0,2.5,-3.0]`, `"items":{"type":"double","optional":false}`},
		{&defaults, "halfvec", "[0.1,1e-05]", `[0.1,1.0E-5]`, `"name":"io.debezium.data.FloatVector"`},
		{&defaults, "interval", "infinity", `"infinity"`, `"type":"int64"`}, // PostgreSQL 17
		{&iso, "interval", "-infinity", `"-infinity"`, `"type":"string"`},
		{&defaults, "hstore", "no hstore", `"no hstore"`, `"type":"string"`},
		{&defaults, "int4", "redacted", `"redacted"`, `"type":"int32"`}, // by a mask
	} {
		f := scalar(c.opts, c.name, -1)
		got, err := f.write(nil, []byte(c.text))
		if err != nil || string(got) != c.want || !strings.Contains(f.node.String(), c.node) {
			t.Errorf("%s %s: %s, %v, want %s; %s", c.name, c.text, got, err, c.want, f.node)
		}
	}
}

// TestAnyText: whatever a text is, what comes out is JSON, or an error.
func TestAnyText(t *testing.T) {
	names := []string{
		"bool", "int2", "int8", "float4", "float8", "numeric", "money", "bytea", "bit", "date", "time", "timetz", "timestamp", "timestamptz",
		"interval", "uuid", "json", "point", "geometry", "vector", "hstore", "text",
	}
	texts := []string{
		"t", "-1", "1.5e-07", "NaN", "-Infinity", "$1,234.11", `\x00ff`, "1010", "2024-02-29", "0044-03-15 12:00:00.5 BC", "13:51:30.123789+02:30",
		"2016-11-04 13:51:30.123456+00", "1 year 2 mons -3 days +04:05:06.78", "(1,-2.5)", "0101000020730C0000", "[1,2.5]", `"a"=>"b", "c"=>NULL`,
		`{1,NULL,"a\"b"}`, `{{1,2},{3}}`, "[0:1]={1,2}", "\x00\x1f\"\\é\xff", "",
	}
	var choices []format.DebeziumOptions
	for _, words := range []string{
		"", "decimal=precise binary=hex time=connect interval=string hstore=map", "decimal=double binary=base64-url-safe time=nanoseconds", "time=isostring binary=base64",
	} {
		choices = append(choices, options(t, strings.Fields(words)))
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	errs := 0
	for range 50_000 {
		f := scalar(&choices[random.IntN(len(choices))], names[random.IntN(len(names))], []int32{-1, 0, 1, 3, 655366}[random.IntN(5)])
		if random.IntN(3) == 0 {
			f = arrayForm(f, ',')
		}
		text := []byte(texts[random.IntN(len(texts))])
		for range random.IntN(3) {
			if len(text) == 0 {
				break
			}
			i := random.IntN(len(text))
			switch random.IntN(3) {
			case 0:
				text[i] = byte(random.IntN(256))
			case 1:
				text = append(text[:i], text[i+1:]...)
			default:
				text = append(text, texts[random.IntN(len(texts))]...)
			}
		}
		before := string(text)
		got, err := f.write([]byte(`[`), text)
		if string(text) != before {
			t.Fatalf("seed %d: %s: %q became %q", seed, f.node, before, text)
		}
		if err != nil {
			errs++
			continue
		}
		if !json.Valid(append(got, ']')) {
			t.Fatalf("seed %d: %s: %q is %s", seed, f.node, text, got)
		}
	}
	if errs == 0 || errs > 25_000 {
		t.Errorf("seed %d: %d errors", seed, errs)
	}
}
