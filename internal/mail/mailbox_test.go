package mail

import (
	"bytes"
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
	box := &Mailbox{DB: newDesk(t).db, Now: func() time.Time { return now }}
	if letters, err := box.Letters(ctx, ""); err != nil || len(letters) != 0 {
		t.Fatalf("an empty mailbox has %d letters (%v)", len(letters), err)
	}
	send := func(to ...string) Dispatch {
		t.Helper()
		d := testDispatch(t, to...)
		receipt, err := box.Send(ctx, d)
		if err != nil || len(receipt.Items) != len(to) {
			t.Fatalf("sent as %+v: %v", receipt, err)
		}
		for i, item := range receipt.Items {
			if item.ProviderID != d.MessageIDs[i].String() || item.Refusal != "" {
				t.Errorf("mail %d is sent as %+v", i, item)
			}
		}
		return d
	}
	one := send("Ann@Client.dev")
	now = now.Add(time.Hour)
	changed := one
	changed.Body = bytes.ReplaceAll(one.Body, []byte("Marie"), []byte("Maria"))
	if _, err := box.Send(ctx, changed); err != nil {
		t.Fatal(err)
	}
	two := send("ann@client.dev", "bea@client.dev")
	first, second, other := one.MessageIDs[0], two.MessageIDs[0], two.MessageIDs[1]

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
		"":                 {other, second, first},
		"ann@client.dev":   {second, first},
		"ANN@CLIENT.DEV":   {second, first},
		"ann@client":       nil,
		"%@client.dev":     nil,
		"nobody@client.de": nil,
	} {
		if have := recipients(to); !slices.Equal(have, want) {
			t.Errorf("letters to %q are %v, want %v", to, have, want)
		}
	}
	want := drafts([]uuid.UUID{first})[0]
	l, ok, err := box.Letter(ctx, first)
	if err != nil || !ok || l.Subject != want.Subject || l.To != "Ann@Client.dev" || l.From != want.Sender ||
		l.Text != want.Text || l.HTML != want.HTML || !l.CreatedAt.Equal(noon) {
		t.Errorf("the first letter is %+v, %v, %v", l, ok, err)
	}
	if _, ok, err := box.Letter(ctx, uuid.New()); ok || err != nil {
		t.Errorf("a letter that is not there: %v, %v", ok, err)
	}

	short := testDispatch(t, "ann@client.dev", "bea@client.dev")
	short.MessageIDs = short.MessageIDs[:1]
	if receipt, err := box.Send(ctx, short); err == nil || AsSendError(err) != nil {
		t.Errorf("two mails of one message are sent as %+v, %v", receipt, err)
	}
}

func TestMailboxShowsTheNewest(t *testing.T) {
	t.Parallel()
	box := &Mailbox{DB: newDesk(t).db, Now: time.Now}
	to := make([]string, mailboxPage+5)
	for i := range to {
		to[i] = fmt.Sprintf("ann.%d@client.dev", i)
	}
	if _, err := box.Send(t.Context(), testDispatch(t, to...)); err != nil {
		t.Fatal(err)
	}
	letters, err := box.Letters(t.Context(), "")
	if err != nil || len(letters) != mailboxPage || letters[0].To != to[len(to)-1] {
		t.Errorf("%d letters, the first is %q (%v)", len(letters), letters[0].To, err)
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
