package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
	"usher/internal/roster"
	"usher/jobs"
)

// demo is what scripts read from .usher/demo.json.
type demo struct {
	URL         string `json:"url"`
	APIKey      string `json:"api_key"`
	OpsPassword string `json:"ops_password"`
	CompanyID   string `json:"company_id"`
	WorkspaceID string `json:"workspace_id"`
	AccountID   string `json:"account_id"`
}

// prepareDemo migrates the database and sees that the demo app is there: the
// one of the last run, or a new one.
func (p *parts) prepareDemo(ctx context.Context) (d demo, err error) {
	pool, err := postgres.Open(ctx, p.DatabaseURL, 4)
	if err != nil {
		return d, err
	}
	defer pool.Close()
	if err := postgres.Migrate(ctx, pool); err != nil {
		return d, err
	}
	queue, err := jobs.NewInserter(pool, p.slog())
	if err != nil {
		return d, err
	}
	r := &roster.Roster{DB: pool, Jobs: queue, Now: time.Now}
	path := filepath.Join(stateDir, "demo.json")
	kept, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(kept, &d) != nil || !isThere(ctx, r, d) {
		if d, err = seedDemo(ctx, r); err != nil {
			return d, fmt.Errorf("make demo app: %w", err)
		}
	}
	d.URL, d.OpsPassword = p.URL.String(), p.OpsPassword
	raw, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return d, fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o600); err != nil {
		return d, fmt.Errorf("write %s: %w", path, err)
	}
	return d, nil
}

// isThere tells whether the kept demo is one of this database.
func isThere(ctx context.Context, r *roster.Roster, d demo) bool {
	app, _, err := r.AuthenticateKey(ctx, d.APIKey)
	if err != nil {
		return false
	}
	account, err := uuid.Parse(d.AccountID)
	if err != nil {
		return false
	}
	_, err = r.Account(ctx, app, account)
	return err == nil
}

// seedDemo makes an app with a company, a professional and a workspace, in one
// transaction.
func seedDemo(ctx context.Context, r *roster.Roster) (d demo, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		r := r.In(tx)
		app, err := r.CreateApp(ctx, roster.NewApp{Name: "Harbour Portal", TimeZone: "Europe/Madrid", BrandColor: "#0f5c7a", SupportEmail: "help@harbour.example"})
		if err != nil {
			return err
		}
		key, _, err := r.CreateAPIKey(ctx, app.ID, "demo")
		if err != nil {
			return err
		}
		company, err := r.CreateCompany(ctx, app.ID, "Harbour Physiotherapy", "Europe/Madrid", roster.IdempotencyKey{})
		if err != nil {
			return err
		}
		account, err := r.CreateAccount(ctx, app.ID, roster.NewAccount{
			Kind: roster.Professional, FullName: "Bea Moreno", Email: "bea@harbour.example",
		}, roster.IdempotencyKey{})
		if err != nil {
			return err
		}
		if err := r.SetCompanyMember(ctx, app.ID, company.ID, account.ID, roster.RoleAdmin, roster.IdempotencyKey{}); err != nil {
			return err
		}
		workspace, err := r.CreateWorkspace(ctx, app.ID, roster.NewWorkspace{CompanyID: company.ID, Name: "Ann Example - Private", OwnerID: account.ID}, roster.IdempotencyKey{})
		if err != nil {
			return err
		}
		d = demo{APIKey: key, CompanyID: company.ID.String(), WorkspaceID: workspace.ID.String(), AccountID: account.ID.String()}
		return nil
	})
	return d, err
}
