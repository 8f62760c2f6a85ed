package roster_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// workspaceNames are the names of an account's workspaces, those that are new
// to it with a star.
func workspaceNames(t *testing.T, b *rostertest.Bundle, account uuid.UUID) []string {
	t.Helper()
	list, err := b.AccountWorkspaces(t.Context(), b.App.ID, account, uuid.Nil, 10)
	done(t, err)
	var names []string
	for _, w := range list {
		name := w.Name
		if w.New {
			name += "*"
		}
		names = append(names, name)
	}
	return names
}

func TestAccountWorkspaces(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	second := b.NewWorkspace(t, "Bob's file")
	if got := workspaceNames(t, b, b.Stakeholder.ID); !slices.Equal(got, []string{"Ann's file", "Bob's file"}) {
		t.Errorf("workspaces: got %q", got)
	}
	list, err := b.AccountWorkspaces(t.Context(), b.App.ID, b.Stakeholder.ID, b.Workspace.ID, 1)
	done(t, err)
	if len(list) != 1 || list[0].ID != second.ID || list[0].CompanyName != "Green Valley" || list[0].Kind != "client_file" ||
		list[0].Role != roster.RoleStakeholder || list[0].Visibility != roster.VisibilityFull || !list[0].JoinedAt.Equal(b.Clock.Now()) {
		t.Errorf("second page: got %+v", list)
	}

	b.Exec(t, `UPDATE membership SET seen_at = NULL WHERE workspace_id = $1`, second.ID)
	if got := workspaceNames(t, b, b.Stakeholder.ID); !slices.Equal(got, []string{"Ann's file", "Bob's file*"}) {
		t.Errorf("workspaces, one of them new: got %q", got)
	}
	done(t, b.SeeWorkspaces(t.Context(), uuid.New(), b.Stakeholder.ID)) // another app's
	if got := workspaceNames(t, b, b.Stakeholder.ID); !slices.Equal(got, []string{"Ann's file", "Bob's file*"}) {
		t.Errorf("workspaces after another app's look: got %q", got)
	}
	done(t, b.SeeWorkspaces(t.Context(), b.App.ID, b.Stakeholder.ID))
	if got := workspaceNames(t, b, b.Stakeholder.ID); !slices.Equal(got, []string{"Ann's file", "Bob's file"}) {
		t.Errorf("workspaces once seen: got %q", got)
	}

	b.Exec(t, `UPDATE membership SET state = 'archived' WHERE workspace_id = $1`, b.Workspace.ID)
	b.Exec(t, `UPDATE workspace SET state = 'archived' WHERE id = $1`, second.ID)
	if got := workspaceNames(t, b, b.Stakeholder.ID); len(got) != 0 {
		t.Errorf("archived ones show: %q", got)
	}
	_, err = b.AccountWorkspaces(t.Context(), b.App.ID, uuid.New(), uuid.Nil, 10)
	refused(t, err, roster.NotFound, "account_not_found")
}
