package subscribe

import (
	"errors"
	"sync"
)

// parallel does something n times at once and waits for all of it.
func parallel(n int, do func(int) error) error {
	errs := make([]error, n)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() { errs[i] = do(i) })
	}
	wait.Wait()
	return errors.Join(errs...)
}
