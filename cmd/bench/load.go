package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// answerTime bounds the wait for an answer. A lost one fails the run.
const answerTime = 20 * time.Second

// lastRequest numbers all requests of this run, so that no two are alike.
var lastRequest atomic.Uint64

// client is one kept-alive connection that posts invitations. It is written by
// hand because it shares the processors with what it measures: an HTTP library
// would take as much of them as the floor does.
type client struct {
	conn    net.Conn
	reader  *bufio.Reader
	head    []byte // of a request, up to the idempotency key
	body    []byte
	request []byte
	space   string // the workspace's id
}

func (b *bench) connect(address string) (*client, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &client{
		conn: conn, reader: bufio.NewReaderSize(conn, 16<<10),
		head: fmt.Appendf(nil, "POST /v1/invitations HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAuthorization: Bearer %s\r\n"+
			"Usher-Actor: %s\r\nContent-Type: application/json\r\nIdempotency-Key: ", address, b.key, b.account),
		space: b.workspace.String(),
	}, nil
}

// post sends one invitation, of an address and under an idempotency key that
// were never used, and waits until it is accepted.
func (c *client) post() error {
	id := spread(lastRequest.Add(1))
	c.body = fmt.Appendf(c.body[:0], `{"email":"guest.%016x@example.org","full_name":"Guest %016x","workspace_id":"%s","locale":"es"}`, id, id, c.space)
	c.request = append(c.request[:0], c.head...)
	c.request = fmt.Appendf(c.request, "bench-%016x\r\nContent-Length: %d\r\n\r\n", id, len(c.body))
	c.request = append(c.request, c.body...)
	if err := c.conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	return c.accepted()
}

// spread gives every number another one (splitmix64's last steps, which can be
// undone), so that keys and addresses come in no order, as real ones do.
func spread(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// accepted reads an answer and wants it to be 201.
func (c *client) accepted() error {
	status, err := c.reader.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	created := bytes.HasPrefix(status, []byte("HTTP/1.1 201"))
	first := string(bytes.TrimSpace(status[:min(len(status), 40)]))
	length := -1
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return fmt.Errorf("read answer: %w", err)
			}
		}
	}
	if !created {
		body, _ := c.reader.Peek(min(max(length, 0), 400))
		return fmt.Errorf("the answer is %s: %s", first, body)
	}
	if _, err := c.reader.Discard(length); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// tally is what a round saw.
type tally struct {
	waits    []time.Duration // of the requests answered within the round
	answered int             // also those that were under way at its end
	took     time.Duration
}

func (t tally) perSecond() float64 { return float64(len(t.waits)) / t.took.Seconds() }

// hammer keeps as many connections busy for that long. Any answer but 201
// fails it.
func (b *bench) hammer(ctx context.Context, address string, connections int, d time.Duration) (tally, error) {
	clients := make([]*client, connections)
	for i := range clients {
		c, err := b.connect(address)
		if err != nil {
			return tally{}, err
		}
		defer c.conn.Close()
		clients[i] = c
	}
	var (
		wg    sync.WaitGroup
		all   = make([][]time.Duration, connections)
		extra atomic.Int64
		fail  = make(chan error, connections)
		start = time.Now()
		end   = start.Add(d)
	)
	for i, c := range clients {
		wg.Go(func() {
			for sent := time.Now(); sent.Before(end) && ctx.Err() == nil; {
				if err := c.post(); err != nil {
					fail <- err
					return
				}
				now := time.Now()
				if now.After(end) {
					extra.Add(1)
					return
				}
				all[i] = append(all[i], now.Sub(sent))
				sent = now
			}
		})
	}
	wg.Wait()
	t := tally{took: d}
	for _, waits := range all {
		t.waits = append(t.waits, waits...)
	}
	t.answered = len(t.waits) + int(extra.Load())
	select {
	case err := <-fail:
		return t, err
	default:
		return t, ctx.Err()
	}
}
