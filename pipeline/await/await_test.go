package await

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A wait that is given up says what it waited for; an answer that does not come is waited for too.
func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("a second is over"))
		defer cancel()
		began := time.Now()
		asked := 0
		err := until(ctx, func() ([]string, error) {
			asked++
			if asked%2 == 0 {
				return []string{"nobody answers"}, errors.New("no connection")
			}
			return []string{"shard a is behind"}, nil
		})
		if err == nil || !strings.Contains(err.Error(), "a second is over") || !strings.Contains(err.Error(), "shard a is behind") && !strings.Contains(err.Error(), "no connection") {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Second || asked < 40 {
			t.Errorf("asked %d times in %s", asked, took)
		}
		asked = 0
		if err := until(t.Context(), func() ([]string, error) {
			asked++
			if asked < 3 {
				return []string{"not yet"}, nil
			}
			return nil, nil
		}); err != nil || asked != 3 {
			t.Errorf("%v after %d", err, asked)
		}
	})
}
