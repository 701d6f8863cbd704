package main

import (
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"

	outputjson "shardcdc/output/json"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// unitReader makes JSON transactions of a stream's messages, whatever the stream's format. Nothing of a unit comes out
// before its end mark: its writer may have crashed, and the next one writes it anew.
type unitReader struct {
	subject, epochs string
	format          string
	shards          []string
	limit           int // of bytes in a payload of several parts; of a larger one the head is shown
	collector       *wire.Collector
	large           largePayload // instead of the collector: the unfinished payload, when it is too large
	decoder         wire.Decoder
	encoder         *outputjson.Encoder
	begun           bool     // at the beginning of a payload, at least once
	unit            [][]byte // transactions whose end mark has not come
}

func newUnitReader(sub *control.Subscription, limit int) unitReader {
	names := make([]string, len(sub.Shards))
	for i, s := range sub.Shards {
		names[i] = s.Name
	}
	return unitReader{
		subject: wire.Subject(sub.Name), epochs: wire.EpochSubject(sub.Name), format: sub.Format,
		shards: names, limit: limit, collector: wire.NewCollector(limit), encoder: outputjson.New(names, format.JSONOptions{}),
	}
}

// add takes the next message and returns the transactions that are complete with it.
func (r *unitReader) add(subject string, h nats.Header, data []byte) ([][]byte, error) {
	if subject == r.epochs {
		r.collector.Reset() // a new writer: whatever the one before left unfinished stays so
		r.unit, r.large = nil, nil
		return nil, nil
	}
	if subject != r.subject {
		return nil, nil
	}
	part := h.Get(wire.HeaderPart)
	if !r.begun && partOf(h) > 1 {
		return nil, nil // the reading began in the middle of a payload
	}
	r.begun = true
	if f := h.Get(wire.HeaderFormat); f != "" && f != r.format {
		return nil, fmt.Errorf("its format is %q, and the subscription's is %q", f, r.format)
	}
	txs, complete, err := r.payload(part, data)
	if err != nil || !complete {
		return nil, err
	}
	r.unit = append(r.unit, txs...)
	if h.Get(wire.HeaderCheckpoint) == "" {
		return nil, nil
	}
	done := r.unit
	r.unit = nil
	return done, nil
}

// payload takes the next message of a payload, and with the last one returns its transactions.
func (r *unitReader) payload(part string, data []byte) (txs [][]byte, complete bool, err error) {
	k, n := 1, 1
	if part != "" {
		if k, n, err = wire.ParsePart(part); err != nil {
			return nil, false, err
		}
	}
	if k == 1 {
		r.large = nil
		if n > 1 && int64(n)*int64(len(data)) > int64(r.limit) { // all parts but the last are of one size
			r.collector.Reset()
			if r.large, err = r.newLarge(n); err != nil {
				return nil, false, err
			}
		}
	}
	if r.large != nil {
		heads, err := r.large.add(k, n, data)
		if err != nil || k < n {
			return nil, false, err
		}
		r.large = nil
		txs, err = texts(heads)
		return txs, true, err
	}
	payload, complete, err := r.collector.Add(part, data)
	if err != nil || !complete {
		return nil, false, err
	}
	txs, err = r.transactions(payload)
	return txs, true, err
}

func texts(heads []largeHead) (txs [][]byte, err error) {
	for _, h := range heads {
		tx, err := json.Marshal(h)
		if err != nil {
			return nil, fmt.Errorf("head of csn %s as JSON: %w", h.CSN, err)
		}
		txs = append(txs, tx)
	}
	return txs, nil
}

func (r *unitReader) unknownFormat() error {
	return fmt.Errorf("format %q is unknown to this build. Try: upgrade cdcctl", r.format)
}

func (r *unitReader) transactions(payload []byte) ([][]byte, error) {
	switch r.format {
	case format.JSON:
		return [][]byte{payload}, nil
	case format.Internal:
		return r.decode(payload)
	}
	return nil, r.unknownFormat()
}

func (r *unitReader) decode(frame []byte) ([][]byte, error) {
	u, err := r.decoder.DecodeUnit(frame)
	if err != nil {
		return nil, err
	}
	payloads, err := r.encoder.Encode(&pipeline.Batch{Previous: u.Previous, Transactions: u.Transactions})
	if err != nil {
		return nil, err
	}
	txs := make([][]byte, len(payloads))
	for i, p := range payloads {
		txs[i] = p.Data
	}
	return txs, nil
}
