package mail

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestMailbox(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	now := noon
	box := &Mailbox{DB: inTx(t), Now: func() time.Time { return now }}
	if letters, err := box.Letters(ctx, ""); err != nil || len(letters) != 0 {
		t.Fatalf("an empty mailbox has %d letters (%v)", len(letters), err)
	}
	send := func(to string) Message {
		t.Helper()
		m := testMessage()
		m.Recipient = to
		id, err := box.Send(ctx, m)
		if err != nil || id != m.ID.String() {
			t.Fatalf("sent as %q: %v", id, err)
		}
		return m
	}
	first := send("Ann@Client.dev")
	now = now.Add(time.Hour)
	changed := first
	changed.Subject = "changed"
	if _, err := box.Send(ctx, changed); err != nil {
		t.Fatal(err)
	}
	second, other := send("ann@client.dev"), send("bea@client.dev")

	recipients := func(to string) (ids []uuid.UUID) {
		t.Helper()
		letters, err := box.Letters(ctx, to)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range letters {
			ids = append(ids, l.ID)
		}
		return ids
	}
	for to, want := range map[string][]uuid.UUID{
		"":                 {other.ID, second.ID, first.ID},
		"ann@client.dev":   {second.ID, first.ID},
		"ANN@CLIENT.DEV":   {second.ID, first.ID},
		"ann@client":       nil,
		"%@client.dev":     nil,
		"nobody@client.de": nil,
	} {
		if have := recipients(to); !slices.Equal(have, want) {
			t.Errorf("letters to %q are %v, want %v", to, have, want)
		}
	}
	l, ok, err := box.Letter(ctx, first.ID)
	if err != nil || !ok || l.Subject != first.Subject || l.To != first.Recipient || l.From != first.Sender ||
		l.Text != first.Text || l.HTML != first.HTML || !l.CreatedAt.Equal(noon) {
		t.Errorf("the first letter is %+v, %v, %v", l, ok, err)
	}
	if _, ok, err := box.Letter(ctx, uuid.New()); ok || err != nil {
		t.Errorf("a letter that is not there: %v, %v", ok, err)
	}
}

func TestMailboxShowsTheNewest(t *testing.T) {
	t.Parallel()
	box := &Mailbox{DB: inTx(t), Now: time.Now}
	for i := range mailboxPage + 5 {
		m := testMessage()
		m.Subject = fmt.Sprint(i)
		if _, err := box.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	letters, err := box.Letters(t.Context(), "")
	if err != nil || len(letters) != mailboxPage || letters[0].Subject != fmt.Sprint(mailboxPage+4) {
		t.Errorf("%d letters, the first is %q (%v)", len(letters), letters[0].Subject, err)
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	l := Letter{Text: "Open https://a.dev/i/x_-1?lang=en.\nOr (http://b.dev/y), or again https://a.dev/i/x_-1?lang=en\n" +
		"Not ftp://c.dev, not a.dev, \"https://d.dev/z\""}
	want := []string{"https://a.dev/i/x_-1?lang=en", "http://b.dev/y", "https://d.dev/z"}
	if have := l.Links(); !slices.Equal(have, want) {
		t.Errorf("links are %q, want %q", have, want)
	}
	if have := (Letter{}).Links(); have == nil || len(have) != 0 {
		t.Errorf("no links are %#v, want an empty list: JSON shows it as []", have)
	}
}
