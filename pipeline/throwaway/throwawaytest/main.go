// Package throwawaytest gives the tests of a package one server that all of them share.
package throwawaytest

import (
	"context"
	"fmt"
	"os"
	"testing"

	"shardcdc/pipeline/throwaway"
)

// Main starts the server, runs the tests and removes the server again. It returns the exit code for TestMain.
func Main(m *testing.M, name string, server **throwaway.Server) int {
	s, err := throwaway.Start(context.Background(), throwaway.Options{Name: name})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	*server = s
	code := m.Run()
	if err := s.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
