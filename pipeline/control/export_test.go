package control

import "context"

// Abandon ends the renewals and gives nothing back, as when the process is killed.
func (ls *Lease) Abandon() {
	ls.cancel(context.Canceled)
	close(ls.handing)
	ls.done.Wait()
}
