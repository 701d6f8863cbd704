package feed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/throwawaytest"
)

// The servers of all tests; each test has databases of its own on them.
var (
	server  *throwaway.Server
	mariadb *throwaway.MariaDB
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if mariadb, err = throwaway.StartMariaDB(context.Background(), ""); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := throwawaytest.Main(m, "feed", &server)
	if err := errors.Join(mariadb.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}
