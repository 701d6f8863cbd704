package debezium

import "testing"

// TestCalendar compares with PostgreSQL's own arithmetic, over its whole calendar.
func TestCalendar(t *testing.T) {
	s := newSource(t, "events_calendar")
	const seed = 0.42
	s.exec("SELECT setseed(0.42)")
	r := s.conn.ExecParams(t.Context(), `SELECT (timestamp '4714-11-24 00:00:00 BC' + random() * interval '298000 years')::timestamp AS at
		INTO moments FROM generate_series(1, 5000)`, nil, nil, nil, nil).Read()
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	r = s.conn.ExecParams(t.Context(), `SELECT at::text, trunc(extract(epoch FROM at) * 1000000)::text, at::date::text, (at::date - date '1970-01-01')::text FROM moments`,
		nil, nil, nil, nil).Read()
	if r.Err != nil || len(r.Rows) != 5000 {
		t.Fatal(len(r.Rows), r.Err)
	}
	timestamps, dates := timestampForm("adaptive", -1), dateForm("adaptive")
	for _, row := range r.Rows {
		if got, err := timestamps.write(nil, row[0]); err != nil || string(got) != string(row[1]) {
			t.Errorf("seed %v: timestamp %s: %s, %v, want %s", seed, row[0], got, err, row[1])
		}
		if got, err := dates.write(nil, row[2]); err != nil || string(got) != string(row[3]) {
			t.Errorf("seed %v: date %s: %s, %v, want %s", seed, row[2], got, err, row[3])
		}
	}
}
