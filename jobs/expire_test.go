package jobs

import (
	"fmt"
	"testing"
	"time"

	"usher/internal/roster"
)

// TestExpireInvitationsInChunks sweeps more than two chunks, and leaves alone
// what is not due, was decided, or is in the way of nobody.
func TestExpireInvitationsInChunks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	const due = 2*expireChunk + 345
	w.exec(`INSERT INTO invitation (id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale, note, state, sends, expires_at, created_at)
		SELECT gen_random_uuid(), $1, $2, $3, 'new_user', n || '@client.dev', n || '@client.dev', 'Ann', '', '',
			CASE WHEN n % 10 = 0 THEN 'on_hold' ELSE 'pending' END, 1, $4::timestamptz - n * interval '1 second', $4::timestamptz - interval '14 days'
		FROM generate_series(0, $5 - 1) AS n`, w.app.ID, w.workspace.ID, w.inviter.ID, w.now, due)
	later := w.invite("later@client.dev")
	w.exec(`UPDATE invitation SET expires_at = $2 WHERE id = $1`, later.ID, w.now.Add(time.Microsecond))
	accepted := w.invite("accepted@client.dev")
	w.accept(accepted)
	w.exec(`UPDATE invitation SET expires_at = $2 WHERE id = $1`, accepted.ID, w.now.Add(-time.Hour))
	w.exec(`DELETE FROM river_job`)
	w.exec(`DELETE FROM event`)
	w.exec(`DELETE FROM message`)

	for run, want := range []int{due, 0} {
		if _, err := w.worker.Roster.Jobs.InsertTx(t.Context(), w.tx, roster.ExpireInvitations{}, nil); err != nil {
			t.Fatal(err)
		}
		row := w.workWell(w.job("expire_invitations"))
		if out := string(row.Output()); out != fmt.Sprintf(`{"expired": %d}`, want) && out != fmt.Sprintf(`{"expired":%d}`, want) {
			t.Errorf("run %d: output is %s, want %d", run, out, want)
		}
	}
	for sql, want := range map[string]int{
		`SELECT count(*) FROM invitation WHERE state = 'expired'`:                        due,
		`SELECT count(*) FROM invitation WHERE state = 'pending'`:                        1,
		`SELECT count(*) FROM invitation WHERE state = 'accepted'`:                       1,
		`SELECT count(DISTINCT subject_id) FROM event WHERE type = 'invitation.expired'`: due,
		`SELECT count(*) FROM event`:                                                     due,
		`SELECT count(*) FROM message WHERE kind = 'news'`:                               3, // one for each chunk
		`SELECT max(jsonb_array_length(args->'event_ids')) FROM message`:                 expireChunk,
	} {
		if have := value[int](w, sql); have != want {
			t.Errorf("%s: %d, want %d", sql, have, want)
		}
	}
	w.workWell(w.compose())
	if w.mails() != 3 {
		t.Errorf("%d mails, want a digest for each chunk", w.mails())
	}
}
