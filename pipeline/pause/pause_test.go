package pause

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended, end := context.WithCancel(t.Context())
		end()
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, test := range []struct {
			what    string
			ctx     context.Context
			d, took time.Duration
			err     error
		}{
			{"ends meanwhile", soon, time.Hour, time.Second, context.DeadlineExceeded},
			{"the whole time", t.Context(), time.Minute, time.Minute, nil},
			{"no time", t.Context(), 0, 0, nil},
			{"no time, ended", ended, 0, 0, context.Canceled},
			{"ended", ended, time.Hour, 0, context.Canceled},
		} {
			began := time.Now()
			if err := For(test.ctx, test.d); !errors.Is(err, test.err) || time.Since(began) != test.took {
				t.Errorf("%s: %v after %s", test.what, err, time.Since(began))
			}
		}
	})
}
