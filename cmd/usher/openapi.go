package main

import (
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"usher/internal/roster"
	"usher/jobs"
	"usher/web"
)

func openAPICommand() *cobra.Command {
	return &cobra.Command{
		Use:   "openapi",
		Short: "Print the API's description (OpenAPI 3.1)",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := openAPI(cmd)
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(raw)
			return err
		},
	}
}

// openAPI describes the API without a database: nothing of it depends on one.
func openAPI(cmd *cobra.Command) ([]byte, error) {
	pool, err := pgxpool.New(cmd.Context(), "postgres://localhost") // connects when it is first used
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	p := &parts{config: config{URL: &url.URL{Scheme: "http", Host: "localhost"}}, log: zerolog.Nop()}
	if p.keys, err = roster.NewKeyring(strings.Repeat("-", roster.MinSecret)); err != nil {
		return nil, err
	}
	queue, err := jobs.NewInserter(pool, p.slog())
	if err != nil {
		return nil, err
	}
	server, err := p.newServer(pool, queue, web.Example{})
	if err != nil {
		return nil, err
	}
	return server.OpenAPI()
}
