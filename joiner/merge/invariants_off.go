//go:build !invariants

package merge

func (m *Merger) assertInvariants() {}
