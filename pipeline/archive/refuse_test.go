package archive

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/reading"
	"shardcdc/pipeline/wire"
)

func wants(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", parts)
		return
	}
	for _, p := range append(parts, "Try: ") {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q, want %q in it", err, p)
		}
	}
}

// What would leave a gap, or mix streams, is refused.
func TestImportRefuses(t *testing.T) {
	o := newOrigin(t, format.Format{Name: format.Internal})
	o.publish(1)
	o.publish(1)
	one := o.export(Range{To: 10})
	o.publish(1)
	three := o.export(Range{From: 30})
	all := o.export(Range{})
	there := natstest.Bus(t)
	ctx := t.Context()
	try := func(path string, opts Options) error { _, err := Import(ctx, there, open(t, path), opts); return err }
	target := []control.Target{{Name: "t", DSN: "postgres://x@y/z"}}

	wants(t, try(three, Options{Targets: target}), "begins at sequence 4", "would miss what is before")
	if err := try(one, Options{Targets: target}); err != nil {
		t.Fatal(err)
	}
	wants(t, try(three, Options{}), "the file begins at sequence 4, and the stream ends at 2", "holds sequence 3 first")
	wants(t, try(one, Options{Targets: []control.Target{{Name: "t", DSN: "postgres://other@y/z"}}}), "target t is another database already")
	if _, err := Import(ctx, o.bus, open(t, all), Options{}); err == nil {
		t.Error("into the stream that it came from")
	} else {
		wants(t, err, "bank is captured here")
	}

	// A stream that was set back and went on otherwise.
	other := newOrigin(t, format.Format{Name: format.Internal})
	other.publish(2)
	wants(t, try(other.export(Range{}), Options{}), "message 2 of the stream is another one")
	other.sub.Incarnation = "inc-2"
	wants(t, try(other.export(Range{}), Options{}), `imported from another stream (incarnation "inc-1", the file's is "inc-2")`)

	// One that begins later can be read.
	if err := try(three, Options{Name: "late"}); err != nil {
		t.Fatal(err)
	}
	s, err := reading.Live(ctx, there.JS, "late")
	if err != nil {
		t.Fatal(err)
	}
	if first, last := s.Borders(); first != 4 || last != 4 {
		t.Errorf("sequence %d to %d", first, last)
	}
	wants(t, try(three, Options{Name: "late", Targets: target}), "begins at sequence 4", "would miss what")
	wants(t, try(all, Options{Name: "late", Targets: target}), "the stream begins at sequence 4 here", "would miss what")
}

// No damaged file is taken, wherever the damage is.
func TestDamage(t *testing.T) {
	o := newOrigin(t, format.Format{Name: format.Internal})
	o.publish(3)
	raw, err := os.ReadFile(o.export(Range{}))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "damaged")
	try := func(what string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err == nil {
			f.Close()
			t.Errorf("%s: it was opened", what)
		}
	}
	for i := 0; i < len(raw); i += 3 {
		b := append([]byte(nil), raw...)
		b[i] ^= 1
		try("a bit", b)
		try("cut off", raw[:i])
	}
	try("more", append(append([]byte(nil), raw...), 0))
	if err := os.WriteFile(path, append([]byte("CDCA\x02"), raw[5:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(path)
	wants(t, err, "version 2 is unknown")
	if err := os.WriteFile(path, raw[:len(raw)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(path)
	wants(t, err, "damaged or was cut off")
	_, _, err = Export(context.Background(), o.live(), o.sub, path, Range{})
	wants(t, err, "it exists already")
}

// What the catalog would refuse is refused before anything is stored, for a new subscription and for one that is there.
func TestImportChecksFirst(t *testing.T) {
	o := newOrigin(t, format.Format{Name: format.Internal})
	o.sub.DDL = control.DDLCapture
	o.publish(1)
	one := o.export(Range{})
	o.publish(1)
	two := o.export(Range{})
	there := natstest.Bus(t)
	ctx := t.Context()
	mysql := []control.Target{{Name: "m", DSN: "mysql://x@y/z"}}
	try := func(path string, opts Options) error { _, err := Import(ctx, there, open(t, path), opts); return err }

	wants(t, try(one, Options{Targets: mysql}), "ddl capture: target m is MySQL", "--ddl stop or ignore")
	if _, err := there.JS.Stream(ctx, wire.StreamName("bank")); !errors.Is(err, natsjs.ErrStreamNotFound) {
		t.Errorf("a refused import left a stream: %v", err)
	}
	wants(t, try(one, Options{DDL: "maybe"}), `ddl "maybe" is unknown`)
	if err := try(one, Options{}); err != nil {
		t.Fatal(err)
	}
	before := lastOf(t, there)
	wants(t, try(two, Options{Targets: mysql}), "ddl capture: target m is MySQL")
	if last := lastOf(t, there); last != before {
		t.Errorf("a refused import went on from %d to %d", before, last)
	}
	if err := try(two, Options{Targets: mysql, DDL: control.DDLStop}); err != nil {
		t.Fatal(err)
	}
	if err := try(two, Options{}); err != nil { // what was said before stays
		t.Fatal(err)
	}
	catalog, err := control.OpenCatalog(ctx, there.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	e, err := catalog.Get(ctx, "bank")
	if err != nil || e.DDL != control.DDLStop || len(e.Targets) != 1 || lastOf(t, there) == before {
		t.Errorf("entry %+v %v", e.Subscription, err)
	}
}

func lastOf(t *testing.T, bus *control.Bus) pipeline.Seq {
	t.Helper()
	s, err := reading.Live(t.Context(), bus.JS, "bank")
	if err != nil {
		t.Fatal(err)
	}
	_, last := s.Borders()
	return last
}
