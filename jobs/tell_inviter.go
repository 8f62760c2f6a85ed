package jobs

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/locale"
	"usher/internal/mail"
	"usher/internal/postgres"
	"usher/internal/roster"
)

// tellInviter mails an inviter what became of their invitations.
type tellInviter struct {
	river.WorkerDefaults[roster.TellInviter]
	*Worker
}

func (w *tellInviter) Work(ctx context.Context, job *river.Job[roster.TellInviter]) error {
	if len(job.Args.EventIDs) == 0 {
		return river.JobCancel(fmt.Errorf("job %d names no events", job.ID))
	}
	// An event is told in one mail only, so its first one names the mail.
	key := fmt.Sprintf("news:%s", job.Args.EventIDs[0])
	var m mail.Message
	var skip roster.Skip
	err := postgres.InTx(ctx, w.DB, func(tx pgx.Tx) (err error) {
		var news roster.News
		news, skip, err = w.Roster.In(tx).NewsToTell(ctx, job.Args)
		if err != nil {
			return err
		}
		if skip != "" {
			if err := fence(ctx, tx, job); err != nil {
				return err
			}
			if err := w.Outbox.In(tx).Abandon(ctx, key); err != nil {
				return err
			}
			return complete(ctx, tx, job, "skipped: "+string(skip))
		}
		content, err := newsLetter(news)
		if err != nil {
			return err
		}
		address, err := roster.ParseAddress(news.Inviter.Email)
		if err != nil {
			return fmt.Errorf("read address of account %s: %w", news.Inviter.ID, err)
		}
		m, err = w.Outbox.In(tx).Freeze(ctx, mail.Draft{
			AppID: job.Args.AppID, DedupeKey: key, SubjectID: news.Lines[0].SubjectID,
			Sender: w.sender(news.App), Recipient: address.Mailbox(), Content: content,
		})
		return err
	})
	if err != nil || skip != "" {
		return err
	}
	return deliver(ctx, w.Worker, job, m, nil)
}

func newsLetter(news roster.News) (mail.Content, error) {
	lines := make([]mail.NewsLine, len(news.Lines))
	for i, line := range news.Lines {
		lines[i] = mail.NewsLine{
			Kind:       strings.TrimPrefix(line.Type, "invitation."),
			PersonName: line.PersonName, Email: line.Email, WorkspaceName: line.WorkspaceName, At: line.At,
		}
	}
	content, err := mail.RenderNews(mail.NewsLetter{
		Brand: brand(news.App), Locale: locale.Match(news.Inviter.Locale, news.App.Locale),
		RecipientName: news.Inviter.FullName, Zone: news.Zone, Lines: lines,
	})
	if err != nil {
		return content, fmt.Errorf("render news for account %s: %w", news.Inviter.ID, err)
	}
	return content, nil
}
