package throwaway

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
)

// The test binary runs itself as the owner of a server, to be killed.
const ownerEnv = "THROWAWAY_TEST_OWNER"

// runOwner starts a server in the folder named by ownerEnv, prints "<postmaster> <folder>", and waits for standard
// input to end. With a trailing "!paused" the server is paused first.
func runOwner() {
	dir, paused := strings.CutSuffix(os.Getenv(ownerEnv), "!paused")
	s, err := Start(context.Background(), Options{Dir: dir, Name: "owned"})
	if err == nil && paused {
		err = s.Pause()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.PID(), s.Dir())
	bufio.NewReader(os.Stdin).ReadString('\n')
	os.Exit(0) // Without Close.
}
