package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// entry is one line of the journal.
type entry struct {
	Accept   *acceptance    `json:"accept,omitempty"`
	Answer   []string       `json:"answer,omitempty"` // ids of mails whose answer was written
	Clock    time.Duration  `json:"clock,omitempty"`  // advance in nanoseconds
	Fault    *faultHit      `json:"fault,omitempty"`
	Hash     *keyHash       `json:"hash,omitempty"`     // a key came with another payload
	Events   []*event       `json:"events,omitempty"`   // that happened
	Told     []string       `json:"told,omitempty"`     // ids of events the webhook took
	Suppress []*suppression `json:"suppress,omitempty"` // put on the suppression list
	Lift     string         `json:"lift,omitempty"`     // address taken off it
}

// acceptance is one accepting request: its mails, and under which key to
// repeat which answer.
type acceptance struct {
	At       time.Time  `json:"at"`
	Key      *scopedKey `json:"key,omitempty"`
	Hash     string     `json:"hash,omitempty"`      // as payloads were compared
	BodyHash string     `json:"body_hash,omitempty"` // byte by byte
	Reply    *reply     `json:"reply"`
	Plans    [][]step   `json:"plans"` // what will happen to each of its mails
	Batch    bool       `json:"batch,omitempty"`
	// Request is the body as it came. The mails are read from it again, which
	// is far cheaper than writing them.
	Request json.RawMessage `json:"request"`

	emails []*email
}

// read makes the mails of an acceptance from the journal.
func (a *acceptance) read() error {
	for _, item := range parseMails(a.Batch, a.Request) {
		if item.err == nil && len(a.emails) < len(a.Reply.IDs) {
			item.email.ID = a.Reply.IDs[len(a.emails)]
			a.emails = append(a.emails, item.email)
		}
	}
	if len(a.emails) != len(a.Reply.IDs) || len(a.emails) != len(a.Plans) {
		return errors.New("its request has not as many mails as were accepted")
	}
	a.date()
	return nil
}

// date gives the mails what they have from their acceptance.
func (a *acceptance) date() {
	for i, e := range a.emails {
		e.AcceptedAt, e.plan = a.At, a.Plans[i]
		if a.Key != nil {
			e.IdempotencyKey = a.Key.Key
		}
	}
}

// line is an entry as the journal has it. A request, which is known to be
// JSON, goes into it untouched: the encoder would look at every byte of it.
func (e entry) line() ([]byte, error) {
	if e.Accept == nil || bytes.IndexByte(e.Accept.Request, '\n') >= 0 {
		line, err := json.Marshal(e)
		return append(line, '\n'), err
	}
	head := *e.Accept
	head.Request = nil
	line, err := json.Marshal(entry{Accept: &head})
	if err != nil {
		return nil, err
	}
	line = bytes.TrimSuffix(line, []byte("null}}"))
	return slices.Concat(line, e.Accept.Request, []byte("}}\n")), nil
}

// journal is an append-only file of JSON lines. A nil journal keeps nothing.
type journal struct {
	mu      sync.Mutex // writes
	file    *os.File
	size    int64 // bytes of whole lines
	written int   // lines, to know what a sync covered

	syncing sync.Mutex // one sync serves every line written before it began
	synced  int
}

// openJournal opens or creates the file and hands every line to replay. What
// follows the last newline is a write that a crash cut short: it was never
// answered, and is dropped.
func openJournal(path string, replay func(entry)) (*journal, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &journal{file: f}
	if err := j.load(replay); err != nil {
		f.Close()
		return nil, fmt.Errorf("read journal %s: %w", path, err)
	}
	return j, nil
}

func (j *journal) load(replay func(entry)) error {
	r := bufio.NewReader(j.file)
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var e entry
		if err := decodeStrict(line, &e); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if e.Accept != nil {
			if err := e.Accept.read(); err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
		}
		replay(e)
		j.size += int64(len(line))
	}
	return j.cut()
}

// cut shortens the file to its whole lines.
func (j *journal) cut() error {
	if err := j.file.Truncate(j.size); err != nil {
		return err
	}
	_, err := j.file.Seek(j.size, io.SeekStart)
	return err
}

// write appends a line and returns its number. From then on it survives the
// death of this process, but not yet that of the machine.
func (j *journal) write(e entry) (int, error) {
	if j == nil {
		return 0, nil
	}
	line, err := e.line()
	if err != nil {
		return 0, fmt.Errorf("encode journal line: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.Write(line); err != nil {
		// A half line would swallow the next one.
		return 0, fmt.Errorf("write journal: %w", errors.Join(err, j.cut()))
	}
	j.size += int64(len(line))
	j.written++
	return j.written, nil
}

// append writes a line and returns when it is on the disk.
func (j *journal) append(e entry) error {
	n, err := j.write(e)
	if j == nil || err != nil {
		return err
	}
	j.syncing.Lock()
	defer j.syncing.Unlock()
	if j.synced >= n {
		return nil
	}
	j.mu.Lock()
	covered := j.written
	j.mu.Unlock()
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	j.synced = covered
	return nil
}

// clear empties the file.
func (j *journal) clear() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.size = 0
	if err := j.cut(); err != nil {
		return fmt.Errorf("clear journal: %w", err)
	}
	return nil
}

func (j *journal) close() {
	if j != nil {
		j.file.Close()
	}
}
