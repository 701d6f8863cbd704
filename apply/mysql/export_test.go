package mysql

import (
	"context"

	"shardcdc/apply"
)

// Swap does what a group does before COMMIT.
func Swap(ctx context.Context, of apply.Session, from, to apply.Progress) error {
	s := of.(*session)
	if _, err := s.exec(ctx, "START TRANSACTION"); err != nil {
		return err
	}
	return s.swap(ctx, from, to)
}

// Commit does the rest.
func Commit(ctx context.Context, of apply.Session) error {
	_, err := of.(*session).exec(ctx, "COMMIT")
	return err
}
