package throwaway

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
)

// Ports are taken below 32768, where Linux begins to hand out ports to clients: while a server is stopped no client of
// anybody sits on its port by chance.
const (
	portMin = 20000
	portMax = 32000
)

// A portSet is the ports of this process's servers, stopped ones included.
type portSet struct {
	mu    sync.Mutex
	taken map[int]bool
}

var ports = portSet{taken: make(map[int]bool)}

// take returns a port that nobody listens on. It is random, so that processes which start servers at the same time rarely
// choose the same.
func (s *portSet) take() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 1000 {
		port := portMin + rand.IntN(portMax-portMin)
		if s.taken[port] {
			continue
		}
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("look for a free port: %w", err)
		}
		if err := l.Close(); err != nil {
			return 0, err
		}
		s.taken[port] = true
		return port, nil
	}
	return 0, fmt.Errorf("no free port between %d and %d in 1000 tries", portMin, portMax)
}

func (s *portSet) release(port int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken, port)
}
