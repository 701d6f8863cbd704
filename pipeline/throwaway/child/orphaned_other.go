//go:build !linux

package child

import "syscall"

// endWithParent does nothing: there is no signal for a parent's death here.
func endWithParent(*syscall.SysProcAttr, syscall.Signal) {}
