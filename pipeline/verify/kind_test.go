package verify

import (
	"strings"
	"testing"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
)

// A target that is not PostgreSQL is refused, also behind a reference.
func TestKindOfTarget(t *testing.T) {
	t.Setenv("CDC_TEST_TARGET", "mysql://u@h/d")
	for text, refused := range map[string]bool{"mysql://u@h/d": true, "${CDC_TEST_TARGET}": true, "file:///tmp": true, "postgres://h/d": false, "${CDC_TEST_NOT_SET}": false} {
		c := Config{Subscription: &control.Subscription{Name: "s", Format: format.Internal}, Target: control.Target{Name: "t", DSN: text}}
		c.setDefaults()
		err := c.Validate()
		if got := err != nil && strings.Contains(err.Error(), "only targets on PostgreSQL are compared"); got != refused {
			t.Errorf("%s: %v", text, err)
		}
	}
}
