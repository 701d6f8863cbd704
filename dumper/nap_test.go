package dumper

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

// A socket is deaf while the reader naps, and hears every byte afterwards.
func TestNap(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	reader, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	writer, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()

	lowWater := func() (bytes int) {
		if err := socketOf(reader).Control(func(fd uintptr) {
			if bytes, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Error(err)
		}
		return bytes
	}
	ctx, wake := context.WithCancel(context.Background())
	napped := make(chan error)
	go func() { napped <- nap(ctx, reader, time.Hour) }()
	for deadline := time.Now().Add(10 * time.Second); lowWater() == 1; {
		if time.Now().After(deadline) {
			t.Fatal("the socket is not deaf")
		}
	}
	wake()
	if err := <-napped; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if n := lowWater(); n != 1 {
		t.Errorf("readable from %d bytes on", n)
	}
	read := make(chan error)
	go func() {
		_, err := reader.Read(make([]byte, 1))
		read <- err
	}()
	if err := errors.Join(reader.SetReadDeadline(time.Now().Add(10*time.Second)), nap(context.Background(), reader, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	if err := nap(context.Background(), pipe, time.Millisecond); err != nil {
		t.Errorf("no socket: %v", err)
	}
}

// A connection that is closed meanwhile, as a session does when it ends, is an error that passes.
func TestNapOnAClosedConnection(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	napped := make(chan error)
	go func() { napped <- nap(context.Background(), conn, 50*time.Millisecond) }()
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-napped; err != nil {
		if fatal := New(Source{}, nil, Options{}).judge(err); fatal != nil {
			t.Error(fatal)
		}
	}
	if fatal := New(Source{}, nil, Options{}).judge(setLowWater(socketOf(conn), 1)); fatal != nil {
		t.Errorf("closed: %v", fatal)
	}
}
