package format

import (
	"strings"
	"testing"
)

func TestDefaultsAreValid(t *testing.T) {
	for _, f := range []Format{
		{},
		{Name: JSON},
		{Name: JSON, JSON: JSONOptions{Layout: ByRow, Flavour: Debezium}},
		{Name: SQL},
	} {
		full := f.WithDefaults()
		if err := full.Validate(); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
		if again := full.WithDefaults(); again != full {
			t.Errorf("%+v became %+v", full, again)
		}
	}
	if f := (Format{}).WithDefaults(); f != (Format{Name: Internal}) {
		t.Errorf("internal has no choices: %+v", f)
	}
}

func TestValidate(t *testing.T) {
	for want, f := range map[string]Format{
		`format "xml" is unknown. Try: internal, json, sql`:            {Name: "xml"},
		`--json-layout "both" is unknown. Try: transaction, row`:       {Name: JSON, JSON: JSONOptions{Layout: "both"}},
		`--debezium-decimal "float" is unknown`:                        {Name: JSON, JSON: JSONOptions{Layout: ByRow, Flavour: Debezium}, Debezium: DebeziumOptions{Decimal: "float"}},
		`(--json-…) are for --format json`:                             {Name: SQL, JSON: JSONOptions{Types: true}},
		`(--sql-…) are for --format sql`:                               {Name: JSON, SQL: SQLOptions{Dialect: MySQL}},
		`(--debezium-…) are for --format json --json-flavour debezium`: {Name: JSON, Debezium: DebeziumOptions{Schema: true}},
		`Debezium's messages are rows. Try: --json-layout row`:         {Name: JSON, JSON: JSONOptions{Flavour: Debezium}},
		`--json-types is for --json-flavour native`:                    {Name: JSON, JSON: JSONOptions{Layout: ByRow, Flavour: Debezium, Types: true}},
		`--json-fill-unchanged is for --json-flavour native`:           {Name: JSON, JSON: JSONOptions{Layout: ByRow, Flavour: Debezium, FillUnchanged: true}},
		`--json-cloudevents is for --json-flavour native`:              {Name: JSON, JSON: JSONOptions{Layout: ByRow, Flavour: Debezium, CloudEvents: true}},
		`--json-cloudevents is for --json-layout row`:                  {Name: JSON, JSON: JSONOptions{CloudEvents: true}},
	} {
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", f, err, want)
		}
	}
}
