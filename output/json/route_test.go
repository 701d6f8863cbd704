package json

import (
	"strings"
	"testing"

	"shardcdc/output"
	"shardcdc/pipeline/format"
)

// TestRoute: a table's rows go where they are sent, resident and as a series; all else is as it was.
func TestRoute(t *testing.T) {
	plain, err := NewRows("s", []string{"a"}, format.JSONOptions{}).Encode(several())
	if err != nil {
		t.Fatal(err)
	}
	want := keep(plain)
	routed := 0
	for i := range want {
		if strings.HasPrefix(want[i].Subject, "public.") {
			want[i].Subject, routed = "vip."+want[i].Subject, routed+1
		}
	}
	if routed == 0 {
		t.Fatal("no row has a subject of its own")
	}
	e := NewRows("s", []string{"a"}, format.JSONOptions{})
	e.Route = func(schema, table string) (string, bool) { return "vip." + schema + "." + table, schema == "public" }
	got, err := e.Encode(several())
	if err != nil {
		t.Fatal(err)
	}
	series, err := e.Encode(elsewhere(several()))
	if err != nil {
		t.Fatal(err)
	}
	var large []output.Payload
	if err := series[0].Series.Each(func(p *output.Payload) error {
		large = append(large, keep([]output.Payload{*p})...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]output.Payload{keep(got), large} {
		if len(list) != len(want) {
			t.Fatalf("%d payloads, want %d", len(list), len(want))
		}
		for i := range want {
			if list[i].Subject != want[i].Subject || string(list[i].Data) != string(want[i].Data) {
				t.Errorf("%s %s, want %s %s", list[i].Subject, list[i].Data, want[i].Subject, want[i].Data)
			}
		}
	}
}
