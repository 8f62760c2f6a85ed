package mail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/resend/resend-go/v2"

	"usher/internal/postgres"
)

// Mailbox is the development mailbox, the Sender where no provider is set up:
// it keeps mail in the database, to be read and not delivered.
type Mailbox struct {
	DB  postgres.DB
	Now func() time.Time
}

// Letter is one mail in the Mailbox.
type Letter struct {
	ID        uuid.UUID
	To        string
	From      string
	Subject   string
	Text      string
	HTML      string
	CreatedAt time.Time
}

// Links are the web addresses in the letter's text, in order, each once.
func (l Letter) Links() []string {
	links := []string{}
	seen := map[string]bool{}
	for _, link := range webAddress.FindAllString(l.Text, -1) {
		link = strings.TrimRight(link, ".,;:!?)>\"'")
		if !seen[link] {
			seen[link] = true
			links = append(links, link)
		}
	}
	return links
}

var webAddress = regexp.MustCompile(`https?://\S+`)

// Name is the row of the limiter for the mailbox.
func (b *Mailbox) Name() string { return "mailbox" }

// Send puts the mails of d into the mailbox. Sending them again changes nothing.
func (b *Mailbox) Send(ctx context.Context, d Dispatch) (Receipt, error) {
	emails := make([]resend.SendEmailRequest, 1)
	var err error
	if d.Endpoint == endpointOne {
		err = json.Unmarshal(d.Body, &emails[0])
	} else {
		err = json.Unmarshal(d.Body, &emails)
	}
	if err == nil && len(emails) != len(d.MessageIDs) {
		err = fmt.Errorf("%d mails for %d messages", len(emails), len(d.MessageIDs))
	}
	if err != nil {
		return Receipt{}, fmt.Errorf("read dispatch %s: %w", d.ID, err)
	}
	receipt := Receipt{Items: make([]Item, len(emails))}
	err = postgres.Send(ctx, b.DB, func(batch *pgx.Batch) {
		for i, m := range emails {
			receipt.Items[i].ProviderID = d.MessageIDs[i].String()
			batch.Queue(`
				INSERT INTO dev_mail (id, recipient, email_key, sender, subject, text, html, created_at)
				VALUES ($1, $2, lower($2), $3, $4, $5, $6, $7)
				ON CONFLICT DO NOTHING`, d.MessageIDs[i], m.To[0], m.From, m.Subject, m.Text, m.Html, b.Now().UTC())
		}
	})
	if err != nil {
		return Receipt{}, fmt.Errorf("put dispatch %s into the mailbox: %w", d.ID, err)
	}
	return receipt, nil
}

// mailboxPage is how many letters the mailbox shows: what a developer just
// caused is among them.
const mailboxPage = 100

const letterColumns = `id, recipient, sender, subject, text, html, created_at`

// Letters lists the newest letters, of one recipient or, with to empty, of all.
func (b *Mailbox) Letters(ctx context.Context, to string) (letters []Letter, err error) {
	query, args := `SELECT `+letterColumns+` FROM dev_mail ORDER BY id DESC LIMIT $1`, []any{mailboxPage}
	if to != "" {
		query, args = `SELECT `+letterColumns+` FROM dev_mail WHERE email_key = lower($2) ORDER BY id DESC LIMIT $1`, append(args, to)
	}
	err = postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		letters, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Letter])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the mailbox: %w", err)
	}
	return letters, nil
}

// Letter is one letter; ok is false where there is none with that id.
func (b *Mailbox) Letter(ctx context.Context, id uuid.UUID) (l Letter, ok bool, err error) {
	err = postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+letterColumns+` FROM dev_mail WHERE id = $1`, id)
		if err != nil {
			return err
		}
		l, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Letter])
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return l, false, nil
	}
	if err != nil {
		return l, false, fmt.Errorf("read letter %s: %w", id, err)
	}
	return l, true, nil
}
