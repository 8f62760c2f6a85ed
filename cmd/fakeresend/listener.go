package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// relistenEvery is how often a listener tries to get its port back.
const relistenEvery = 20 * time.Millisecond

// listener is a TCP listener that can go down for a while. Connections that
// serve the admin stay open meanwhile.
type listener struct {
	address string

	mu      sync.Mutex
	current net.Listener  // closed while down
	up      chan struct{} // closed unless down
	closed  bool
	conns   map[*conn]struct{}
}

// conn is a connection the listener took.
type conn struct {
	*net.TCPConn
	from  *listener
	admin atomic.Bool
}

func listen(address string) (*listener, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	up := make(chan struct{})
	close(up)
	return &listener{address: ln.Addr().String(), current: ln, up: up, conns: map[*conn]struct{}{}}, nil
}

// Accept waits for a connection, through the times it is down.
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		ln, up, closed := l.current, l.up, l.closed
		l.mu.Unlock()
		if closed {
			return nil, net.ErrClosed
		}
		<-up
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			continue // down, up again, or closed for good
		}
		if err != nil {
			return nil, err
		}
		tracked := &conn{TCPConn: c.(*net.TCPConn), from: l}
		l.mu.Lock()
		l.conns[tracked] = struct{}{}
		l.mu.Unlock()
		return tracked, nil
	}
}

// Addr is where it listens.
func (l *listener) Addr() net.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current.Addr()
}

// Close ends it for good.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	err := l.current.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil // it was down
	}
	select {
	case <-l.up:
	default:
		close(l.up)
	}
	return err
}

// goDown resets the connections and refuses new ones for a while. It does
// nothing to a listener that is down.
func (l *listener) goDown(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
	default:
		return
	}
	if l.closed {
		return
	}
	l.current.Close()
	l.up = make(chan struct{})
	for c := range l.conns {
		if !c.admin.Load() {
			_ = c.SetLinger(0)
			_ = c.TCPConn.Close()
			delete(l.conns, c)
		}
	}
	time.AfterFunc(d, l.comeUp)
}

// comeUp listens again, as soon as the port can be had.
func (l *listener) comeUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	ln, err := net.Listen("tcp", l.address)
	if err != nil {
		time.AfterFunc(relistenEvery, l.comeUp)
		return
	}
	l.current = ln
	close(l.up)
}

// Close closes the connection.
func (c *conn) Close() error {
	c.from.mu.Lock()
	delete(c.from.conns, c)
	c.from.mu.Unlock()
	return c.TCPConn.Close()
}

// connKey finds a request's connection in its context.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// keepOpen marks a request's connection as one of the admin's.
func keepOpen(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*conn); ok {
		c.admin.Store(true)
	}
}
