package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"usher/internal/postgres"
	"usher/web"
)

// stateDir is where a development installation keeps its things, below the
// folder it was started in.
const stateDir = ".usher"

// programsDir is where PostgreSQL is put on machines that have none, once for
// all private servers of the folder.
const programsDir = stateDir + "/programs"

func runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run everything in one process, with a demo app",
		Long: `Runs web front and workers in one process, for development. Without
DATABASE_URL it starts a private PostgreSQL under .usher/, whose data is kept
between runs. It makes a demo app and prints how to send a first invitation.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := readConfig()
			if err != nil {
				return err
			}
			return runAll(cmd.Context(), c)
		},
	}
}

func runAll(ctx context.Context, c config) (err error) {
	// The port first: nothing else is worth starting without it.
	listener, err := listen(c.Port)
	if err != nil {
		return err
	}
	defer listener.Close()
	if c.URL == nil {
		port := listener.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // listen makes TCP listeners
		c.URL = &url.URL{Scheme: "http", Host: fmt.Sprintf("localhost:%d", port)}
	}
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return fmt.Errorf("make folder %s: %w", stateDir, err)
	}
	c.Dev = true
	if c.LogFormat == "" {
		c.LogFormat = "text"
	}
	if c.Secret, err = keptSecret(c.Secret, "secret"); err != nil {
		return err
	}
	if c.OpsPassword, err = keptSecret(c.OpsPassword, "ops_password"); err != nil {
		return err
	}

	if c.DatabaseURL == "" {
		server, err := postgres.StartServer(ctx, postgres.ServerOptions{
			Dir:      filepath.Join(stateDir, "postgres"),
			Programs: programsDir,
			Progress: func(step string) { fmt.Fprintln(os.Stderr, step) },
		})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Stop()) }()
		if err := server.EnsureDatabase(ctx, "usher"); err != nil {
			return err
		}
		c.DatabaseURL = server.URL("usher")
	}

	p, err := newParts(c, os.Stderr)
	if err != nil {
		return err
	}
	demo, err := p.prepareDemo(ctx)
	if err != nil {
		return err
	}
	example := web.Example{APIKey: demo.APIKey, AccountID: demo.AccountID, WorkspaceID: demo.WorkspaceID}
	p.welcome(demo)
	return together(ctx,
		func(ctx context.Context) error { return p.serve(ctx, listener, example) },
		p.work,
	)
}

// keptSecret is the given value or, if there is none, a random one that is kept
// below stateDir for the next run.
func keptSecret(given, name string) (string, error) {
	if given != "" {
		return given, nil
	}
	path := filepath.Join(stateDir, name)
	kept, err := os.ReadFile(path)
	if err == nil && len(kept) > 0 {
		return strings.TrimSpace(string(kept)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	raw := make([]byte, 32)
	if name == "ops_password" {
		raw = raw[:8] // typed by hand, and good for this machine only
	}
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	secret := hex.EncodeToString(raw)
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep %s: %w", name, err)
	}
	return secret, nil
}

// developing is the configuration of the installation that 'usher run' runs from
// this folder, where none is given: hand tools work beside it.
func developing(c config) config {
	if c.DatabaseURL != "" {
		return c
	}
	address, ok := postgres.RunningURL(filepath.Join(stateDir, "postgres"), "usher")
	if !ok {
		return c
	}
	c.DatabaseURL, c.Dev = address, true
	if kept, err := os.ReadFile(filepath.Join(stateDir, "secret")); err == nil && c.Secret == "" {
		c.Secret = strings.TrimSpace(string(kept))
	}
	var d demo
	if raw, err := os.ReadFile(filepath.Join(stateDir, "demo.json")); err == nil && json.Unmarshal(raw, &d) == nil && c.URL == nil {
		c.URL, _ = url.Parse(d.URL)
	}
	return c
}

// welcome says what runs where, and what to try first.
func (p *parts) welcome(d demo) {
	first := web.FirstCall(p.URL, web.Example{APIKey: d.APIKey, AccountID: d.AccountID, WorkspaceID: d.WorkspaceID})
	mail := p.URL.JoinPath("dev/mailbox").String()
	if p.ResendAPIKey != "" {
		mail = "goes to the provider: RESEND_API_KEY is set"
	}
	fmt.Printf(`
Usher runs at %s

  API reference   %s
  Mailbox         %s
  Ops             %s   (password: %s)
  Demo app's key  %s

Send a first invitation:

%s

Then read the mail in the mailbox. Ctrl-C stops everything; the data stays in %s.

`, p.URL, p.URL.JoinPath("docs"), mail, p.URL.JoinPath("ops"), d.OpsPassword, d.APIKey, first, stateDir)
}
