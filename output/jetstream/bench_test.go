package jetstream

import (
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/output"
	outputjson "shardcdc/output/json"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
)

// BenchmarkPublish stores units, over TCP, in a server within this process: what both sides take for a row. A CPU profile
// tells them apart.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct {
		name, format string
		txs, rows    int
		size         int
	}{
		{"internal of small transactions", "internal", 2000, 1, 200},
		{"internal of one large transaction", "internal", 1, 10_000, 280},
		{"internal of wide rows", "internal", 10, 10, 5000},
		{"json of small transactions", "json", 4000, 1, 200},
		{"json of wide rows", "json", 40, 10, 5000},
		{"json row by row", "rows", 300, 10, 200},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, srv := newServer(b, StreamConfig{}, "127.0.0.1:0")
			nc, err := nats.Connect(srv.URL(), nats.ReconnectBufSize(-1))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(nc.Close)
			if s.nc = nc; err == nil {
				s.js, err = natsjs.New(nc)
			}
			if err != nil {
				b.Fatal(err)
			}
			conf := s.config()
			conf.Format, conf.Encoder = c.format, output.NewInternal()
			switch c.format {
			case "json":
				conf.Encoder = outputjson.New([]string{"a"}, format.JSONOptions{})
			case "rows":
				conf.Format, conf.Encoder = "json", outputjson.NewRows("bank", []string{"a"}, format.JSONOptions{})
			}
			conf.BatchMax = control.EmbeddedBatchMax
			s.limit = MessageBytesMax
			p, _, _ := s.open(conf)
			csns := make([]pipeline.CSN, c.txs)
			for i := range csns {
				csns[i] = pipeline.CSN(i + 1)
			}
			unit := batch(0, c.size, csns...)
			for _, tx := range unit.Transactions {
				f := tx.Fragments[0]
				for row := f.Body; f.Changes < c.rows; {
					f.Append(row[4:])
				}
			}
			rows, keep := 0, pipeline.Seq(0)
			before := cpu(b)
			b.ReportAllocs()
			for b.Loop() {
				s.publish(p, unit)
				step := unit.Last() - unit.Previous
				unit.Previous += step
				for _, tx := range unit.Transactions {
					tx.CSN += step
				}
				if rows += c.txs * c.rows; p.last-keep > 20_000 { // the disk has an end
					keep = p.last
					if err := p.Trim(b.Context(), keep); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rows), "ns/row")
			b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(rows), "cpu-ns/row")
		})
	}
}

// cpu is what this process has taken, of both sides.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
