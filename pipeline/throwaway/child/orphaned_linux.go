package child

import "syscall"

// endWithParent asks the kernel for the signal. Go does that after changing the user, which would clear it.
func endWithParent(a *syscall.SysProcAttr, orphaned syscall.Signal) { a.Pdeathsig = orphaned }
