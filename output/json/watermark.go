package json

import (
	"strconv"

	"shardcdc/pipeline"
)

// Watermark is the data of a message that tells a watermark alone: {"watermark":"csn","time":"…"}.
func Watermark(w pipeline.CSN) []byte {
	dst := append([]byte(nil), `{"watermark":"`...)
	dst = strconv.AppendUint(dst, uint64(w), 10)
	dst = append(dst, `","time":"`...)
	return append(appendTime(dst, w.Time()), `"}`...)
}
