package web

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"usher/internal/roster"
)

func (s *Server) mergeRoutes() {
	register(s, huma.Operation{
		OperationID: "preview-merge", Method: http.MethodPost, Path: "/v1/merges/preview", Tags: []string{tagMerges}, DefaultStatus: http.StatusOK,
		Summary: "See what a merge would do", Errors: []int{403, 404, 409},
		Description: "Once a client has granted an access request, the account that was made meanwhile (`absorbed`) can be folded into the client's own (`survivor`). The answer says what moves, and every conflict with the rule that decides it; its `hash` is what `confirm` takes. " +
			"Address, username and password of the survivor stay; where both have a value, the survivor's wins and the other is kept here; in a workspace both are in, the lower right wins; nothing of the survivor is opened to anybody who could not see it before. " +
			"Names or dates of birth that differ make the state `needs_resolution`. Asking again answers the same merge, looked at anew.",
	}, s.previewMerge)
	register(s, huma.Operation{
		OperationID: "list-merges", Method: http.MethodGet, Path: "/v1/merges", Tags: []string{tagMerges},
		Summary: "List merges, newest first",
	}, s.listMerges)
	register(s, huma.Operation{
		OperationID: "get-merge", Method: http.MethodGet, Path: "/v1/merges/{id}", Tags: []string{tagMerges},
		Summary: "Read a merge", Errors: []int{404},
	}, func(ctx context.Context, in *Subject) (*ok[mergeBody], error) {
		m, err := s.Roster.Merge(ctx, requestOf(ctx).app, id(in.ID))
		return &ok[mergeBody]{newMergeBody(m)}, err
	})
	register(s, huma.Operation{
		OperationID: "resolve-merge", Method: http.MethodPost, Path: "/v1/merges/{id}/resolve", Tags: []string{tagMerges}, DefaultStatus: http.StatusOK,
		Summary: "Say whether both accounts are of the same person", Errors: []int{403, 404, 409},
		Description: "A no cancels the merge. A yes holds for the names and dates that were shown; the answer has the `hash` to confirm.",
	}, func(ctx context.Context, in *struct {
		Subject
		Requesting
		Keyed
		RawBody []byte
		Body    struct {
			SamePerson bool `json:"same_person"`
		}
	},
	) (*ok[mergeBody], error) {
		m, err := s.Roster.ResolveMerge(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.Body.SamePerson, in.key(ctx, in.Actor, in.RawBody))
		return &ok[mergeBody]{newMergeBody(m)}, err
	})
	register(s, huma.Operation{
		OperationID: "confirm-merge", Method: http.MethodPost, Path: "/v1/merges/{id}/confirm", Tags: []string{tagMerges}, DefaultStatus: http.StatusOK,
		Summary: "Begin a merge as its preview showed it", Errors: []int{403, 404, 409},
		Description: "If anything the preview depends on is different by now, the answer is 409 `preview_changed`; ask for the preview again. While another account is merged into the same one: 409 `merge_running`. " +
			"The merge then goes on by itself: your endpoint for merges gets the call `merge.prepare` before the rows move, `merge.apply` after it, and `merge.undo` for a merge that was prepared or applied and is not to be. Each is tried until it is answered with 2xx, and has the same `webhook-id` every time. After `merge.undo`, what still comes of the same merge is to be passed over.",
	}, s.confirmMerge)
	register(s, huma.Operation{
		OperationID: "cancel-merge", Method: http.MethodPost, Path: "/v1/merges/{id}/cancel", Tags: []string{tagMerges}, DefaultStatus: http.StatusOK,
		Summary: "Cancel a merge whose rows have not moved", Errors: []int{403, 404, 409},
		Description: "Cancelling it again is a success. A merge that is done can be undone.",
	}, func(ctx context.Context, in *struct {
		Subject
		Requesting
		Keyed
	},
	) (*ok[mergeBody], error) {
		m, err := s.Roster.CancelMerge(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.key(ctx, in.Actor, nil))
		return &ok[mergeBody]{newMergeBody(m)}, err
	})
	register(s, huma.Operation{
		OperationID: "undo-merge", Method: http.MethodPost, Path: "/v1/merges/{id}/undo", Tags: []string{tagMerges}, DefaultStatus: http.StatusOK,
		Summary: "Undo a merge", Errors: []int{403, 404, 409, 410},
		Description: "Every row that the merge changed is set back. Only the latest merge of an account can be undone, for as long as your policy's `merge_undo_days`. Rows that were edited since need a choice: without one the answer is 409 `rows_edited`. What was added to the survivor since stays there.",
	}, s.undoMerge)
	register(s, huma.Operation{
		OperationID: "list-merge-changes", Method: http.MethodGet, Path: "/v1/merges/{id}/changes", Tags: []string{tagMerges},
		Summary: "List the rows that a merge changed", Errors: []int{404},
		Description: "As they were and as the merge left them. A merge that is final, or was undone, has none.",
	}, s.listMergeChanges)
	register(s, huma.Operation{
		OperationID: "list-merge-edits", Method: http.MethodGet, Path: "/v1/merges/{id}/edits", Tags: []string{tagMerges},
		Summary: "List the rows that were edited since a merge", Errors: []int{404},
		Description: "The first hundred. An undo needs a choice for them.",
	}, func(ctx context.Context, in *Subject) (*ok[list[mergeChangeBody]], error) {
		rows, err := s.Roster.EditedRows(ctx, requestOf(ctx).app, id(in.ID))
		return &ok[list[mergeChangeBody]]{listTo(rows, uuid.Nil, func(e roster.EditedRow) mergeChangeBody {
			b := newMergeChangeBody(e.MergeChange)
			b.Now, b.Removed = e.Now, e.Now == nil
			return b
		})}, err
	})
}

// mergeBody is a merge in the API.
type mergeBody struct {
	ID          string          `json:"id" format:"uuid"`
	State       string          `json:"state" enum:"previewed,needs_resolution,confirmed,running,merged,finalized,failed,cancelled,undoing,undone" doc:"merged: done, and it can be undone until undo_until; finalized: it cannot any more. failed, cancelled: nothing was changed."`
	RequestID   string          `json:"access_request_id" format:"uuid" doc:"The granted access request that allows it."`
	CompanyID   string          `json:"company_id" format:"uuid"`
	SurvivorID  string          `json:"survivor_id" format:"uuid" doc:"The client's own account, which lives on."`
	AbsorbedID  string          `json:"absorbed_id" format:"uuid" doc:"The account that was made meanwhile. Once merged, its id leads to the survivor."`
	ActorID     string          `json:"actor_id,omitempty" format:"uuid" doc:"Who confirmed it. Missing: nobody yet, or the app's policy did."`
	Moves       mergeMovesBody  `json:"moves"`
	Conflicts   []mergeConflict `json:"conflicts"`
	Unlisted    int             `json:"unlisted_conflicts,omitempty" doc:"There are so many more; 200 are listed."`
	Hash        string          `json:"hash" doc:"Of all that the preview depends on, for confirm." example:"b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"`
	Reason      string          `json:"reason,omitempty" enum:"asked,not_same_person,access_revoked,preview_changed,already_merged,account_archived,account_merged,account_active,account_temporary,account_invited,verification" doc:"Why it failed or was cancelled."`
	CreatedAt   time.Time       `json:"created_at"`
	ConfirmedAt *time.Time      `json:"confirmed_at,omitempty"`
	MergedAt    *time.Time      `json:"merged_at,omitempty"`
	UndoUntil   *time.Time      `json:"undo_until,omitempty"`
	EndedAt     *time.Time      `json:"ended_at,omitempty" doc:"When it became final, failed, was cancelled or undone."`
}

// mergeMovesBody counts what a merge moves.
type mergeMovesBody struct {
	Records         int `json:"records"`
	Memberships     int `json:"memberships" doc:"Workspaces the survivor was not in."`
	SecondaryEmails int `json:"secondary_emails"`
	Notifications   int `json:"notifications"`
	AccessRequests  int `json:"access_requests" doc:"Open ones for access to the absorbed account, which become requests to the survivor."`
	Superseded      int `json:"superseded" doc:"Open invitations and requests that become pointless."`
}

// mergeConflict is something on which the two accounts do not agree.
type mergeConflict struct {
	Code        string `json:"code" enum:"same_person,value_differs,membership_in_both,membership_ended,access_ends" doc:"same_person: a question that blocks the merge. membership_ended: the survivor was archived there, and stays so. access_ends: a company sees the absorbed account, and not the survivor."`
	Rule        string `json:"rule" enum:"ask,survivor_wins,lower_right,ends" doc:"What is done about it."`
	Field       string `json:"field,omitempty" enum:"full_name,birth_date,locale,time_zone"`
	Survivor    string `json:"survivor,omitempty" doc:"What the survivor has. A date of birth is not told."`
	Absorbed    string `json:"absorbed,omitempty"`
	WorkspaceID string `json:"workspace_id,omitempty" format:"uuid"`
	CompanyID   string `json:"company_id,omitempty" format:"uuid"`
}

func newMergeBody(m roster.Merge) mergeBody {
	p := m.Preview
	b := mergeBody{
		ID: m.ID.String(), State: string(m.State), RequestID: m.RequestID.String(), CompanyID: m.CompanyID.String(),
		SurvivorID: m.SurvivorID.String(), AbsorbedID: m.AbsorbedID.String(), Moves: mergeMovesBody{
			p.Moves.Records, p.Moves.Memberships, p.Moves.SecondaryEmails, p.Moves.Notifications, p.Moves.Requests, p.Moves.Superseded,
		},
		Conflicts: make([]mergeConflict, len(p.Conflicts)), Unlisted: p.Unlisted, Hash: hex.EncodeToString(m.Hash), Reason: m.Failure,
		CreatedAt: m.CreatedAt, ConfirmedAt: m.ConfirmedAt, MergedAt: m.MergedAt, UndoUntil: m.UndoUntil, EndedAt: m.EndedAt,
	}
	for i, c := range p.Conflicts {
		b.Conflicts[i] = mergeConflict{c.Code, c.Rule, c.Field, c.Survivor, c.Absorbed, idText(c.WorkspaceID), idText(c.CompanyID)}
	}
	b.ActorID = idText(m.ActorID)
	return b
}

// idText is an id in the API; empty: none.
func idText(id *uuid.UUID) string {
	if id == nil {
		return ""
	}
	return id.String()
}

func (s *Server) previewMerge(ctx context.Context, in *struct {
	Requesting
	Keyed
	RawBody []byte
	Body    struct {
		RequestID  string `json:"access_request_id" format:"uuid" doc:"A granted one."`
		AbsorbedID string `json:"absorbed_id,omitempty" format:"uuid" doc:"An account that your company had made earlier for the same address. Missing: the one made for the request."`
	}
},
) (*ok[mergeBody], error) {
	m, err := s.Roster.PreviewMerge(ctx, requestOf(ctx).app, id(in.Actor), id(in.Body.RequestID), id(in.Body.AbsorbedID), in.key(ctx, in.Actor, in.RawBody))
	return &ok[mergeBody]{newMergeBody(m)}, err
}

func (s *Server) listMerges(ctx context.Context, in *struct {
	Paged
	AccountID string `query:"account_id" format:"uuid" doc:"Only those into this account, or of it."`
	State     string `query:"state" enum:"previewed,needs_resolution,confirmed,running,merged,finalized,failed,cancelled,undoing,undone" doc:"Only in this state."`
},
) (*ok[list[mergeBody]], error) {
	rows, err := s.Roster.Merges(ctx, requestOf(ctx).app, roster.MergeList{Account: id(in.AccountID), State: roster.MergeState(in.State), After: id(in.After), Limit: in.Limit + 1})
	return &ok[list[mergeBody]]{listOf(rows, in.Limit, func(m roster.Merge) uuid.UUID { return m.ID }, newMergeBody)}, err
}

func (s *Server) confirmMerge(ctx context.Context, in *struct {
	Subject
	Requesting
	Keyed
	RawBody []byte
	Body    struct {
		Hash string `json:"hash" pattern:"^[0-9a-f]{64}$" patternDescription:"the preview's hash" doc:"Of the preview that you looked at." example:"b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"`
	}
},
) (*ok[mergeBody], error) {
	hash, err := hex.DecodeString(in.Body.Hash)
	if err != nil {
		return nil, newProblem(http.StatusUnprocessableEntity, "validation_failed", "The hash is the one of the preview.")
	}
	m, err := s.Roster.ConfirmMerge(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), hash, in.key(ctx, in.Actor, in.RawBody))
	return &ok[mergeBody]{newMergeBody(m)}, err
}

func (s *Server) undoMerge(ctx context.Context, in *struct {
	Subject
	Keyed
	Actor string `header:"Usher-Actor" format:"uuid" doc:"A professional of the company, or the client. Missing: the app itself."`
	Body  *struct {
		Keep *struct {
			Edited string            `json:"edited" enum:"now,before" doc:"Of all rows that were edited since: leave them as they are now, or set them back to what they were before. One that was removed stays removed."`
			Rows   map[string]string `json:"rows,omitempty" doc:"Of single rows, by their n: now or before."`
		} `json:"keep,omitempty"`
	}
},
) (*ok[mergeBody], error) {
	var keep *roster.MergeKeep
	if in.Body != nil && in.Body.Keep != nil {
		keep = &roster.MergeKeep{Edited: in.Body.Keep.Edited, Rows: map[int64]string{}}
		for n, choice := range in.Body.Keep.Rows {
			row, err := strconv.ParseInt(n, 10, 64)
			if err != nil || len(in.Body.Keep.Rows) > 1_000 {
				p := newProblem(http.StatusUnprocessableEntity, "keep_unknown", "The rows are named by their n, as the list of edits shows them; at most 1,000 of them.")
				p.Field = "keep"
				return nil, p
			}
			keep.Rows[row] = choice
		}
	}
	meaning, err := json.Marshal(keep) // what tells it from another undo
	if err != nil {
		return nil, err
	}
	m, err := s.Roster.UndoMerge(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), keep, in.key(ctx, in.Actor, meaning))
	return &ok[mergeBody]{newMergeBody(m)}, err
}

// mergeChangeBody is a row that a merge changed.
type mergeChangeBody struct {
	N       int64           `json:"n" doc:"Names the row within the merge."`
	What    string          `json:"what" enum:"account,account_status,secondary_email,membership,record,access_request,record_access,invitation,notification" doc:"What the row is. account: what the survivor did not have; account_status: of the absorbed account, and of those merged into it before."`
	Before  json.RawMessage `json:"before,omitempty" doc:"The row as it was. Missing: the merge made it."`
	After   json.RawMessage `json:"after" doc:"The row as the merge left it."`
	Now     json.RawMessage `json:"now,omitempty" doc:"The row as it is, in the list of edits."`
	Removed bool            `json:"removed,omitempty" doc:"The row is gone, in the list of edits."`
}

func newMergeChangeBody(c roster.MergeChange) mergeChangeBody {
	return mergeChangeBody{N: c.N, What: c.What, Before: c.Before, After: c.After}
}

func (s *Server) listMergeChanges(ctx context.Context, in *struct {
	Subject
	After int64 `query:"after" minimum:"0" doc:"The n of the last row of the page before."`
	Limit int   `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many rows."`
},
) (*ok[list[mergeChangeBody]], error) {
	rows, err := s.Roster.MergeChanges(ctx, requestOf(ctx).app, id(in.ID), in.After, in.Limit+1)
	page := list[mergeChangeBody]{Items: []mergeChangeBody{}}
	for i, row := range rows {
		if i == in.Limit {
			page.Next = strconv.FormatInt(rows[i-1].N, 10)
			break
		}
		page.Items = append(page.Items, newMergeChangeBody(row))
	}
	return &ok[list[mergeChangeBody]]{page}, err
}
