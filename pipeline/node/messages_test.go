package node

import (
	"testing"

	"shardcdc/apply"
	"shardcdc/output/jetstream"
)

// The largest messages that the publisher makes have to fit several times into what readers ask for at a time: measured, see
// MessageBytesMax. No other place knows both.
func TestMessagesFitWhatReadersAskFor(t *testing.T) {
	if 4*jetstream.MessageBytesMax > apply.PullBytes {
		t.Errorf("messages of %d bytes, and readers ask for %d", jetstream.MessageBytesMax, apply.PullBytes)
	}
}
