package jetstream

import (
	"encoding/json"
	"errors"
	"fmt"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
)

// parseAck reads JetStream's publish acknowledgement.
func parseAck(data []byte) (pipeline.Seq, error) {
	var ack struct {
		Seq   uint64           `json:"seq"`
		Error *natsjs.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return 0, fmt.Errorf("acknowledgement %q: %w", data, err)
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	if ack.Seq == 0 {
		return 0, fmt.Errorf("acknowledgement without a sequence: %q", data)
	}
	return pipeline.Seq(ack.Seq), nil
}

// JetStream's error codes that publishing, or a change of the stream, meets.
const (
	codeNoSpace         = 10077 // the stream is at its limit
	codeServerFull      = 10023 // the server is
	codeNoStorage       = 10047 // the server has not the room that a stream's limit reserves
	codeLastSeq         = 10071 // the stream is not where it was expected
	codeLastSubjectSeq  = 10164 // the epoch is not the last one, or (replicated) a publish is in flight
	codeBatchIncomplete = 10176
	codeTooManyBatches  = 10210
	codeTooManyRequests = 10167
	codeNotLeader       = 10009 // and other passing states of a cluster
	codeNoQuorum        = 10008
)

// Full says that the server has no room.
func Full(err error) bool {
	var api *natsjs.APIError
	return errors.As(err, &api) && (int(api.ErrorCode) == codeNoSpace || int(api.ErrorCode) == codeServerFull)
}

// final says that trying again cannot help: the server understood and refused.
func final(err error) bool {
	var api *natsjs.APIError
	if !errors.As(err, &api) {
		return false // the connection, a time-out, no responders
	}
	switch int(api.ErrorCode) {
	case codeNoSpace, codeServerFull, codeLastSeq, codeLastSubjectSeq, codeBatchIncomplete, codeTooManyBatches,
		codeTooManyRequests, codeNotLeader, codeNoQuorum:
		return false
	}
	return api.Code < 500
}
