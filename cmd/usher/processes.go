package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"usher/internal/postgres"
	"usher/web"
)

func webCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "web",
		Short: "Answer HTTP: the API, people's pages, the ops pages",
		Long:  "Answers HTTP on PORT. Run as many as you like on one database.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := deployed()
			if err != nil {
				return err
			}
			listener, err := listen(p.Port)
			if err != nil {
				return err
			}
			return p.serve(cmd.Context(), listener, web.Example{})
		},
	}
}

func workerCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "worker",
		Short: "Work the jobs: send mail, expire invitations",
		Long:  "Works the jobs. Run as many as you like on one database; they share the work.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := deployed()
			if err != nil {
				return err
			}
			return p.work(cmd.Context())
		},
	}
}

func migrateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database to this release's schema",
		Long:  "Brings the database to this release's schema. Running it again, or twice at once, does no harm.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd.Context(), func(pool *pgxpool.Pool) error {
				if err := postgres.Migrate(cmd.Context(), pool); err != nil {
					return err
				}
				fmt.Fprintln(os.Stderr, "The database has the schema of this release.")
				return nil
			})
		},
	}
}

// withDatabase gives a hand tool the database that DATABASE_URL names.
func withDatabase(ctx context.Context, use func(*pgxpool.Pool) error) error {
	c, err := readConfig()
	if err != nil {
		return err
	}
	return withConfig(ctx, developing(c), func(_ config, pool *pgxpool.Pool) error { return use(pool) })
}

// withConfig opens the configuration's database for a hand tool.
func withConfig(ctx context.Context, c config, use func(config, *pgxpool.Pool) error) error {
	if c.DatabaseURL == "" {
		return usageError{errors.New("DATABASE_URL is missing; it is the PostgreSQL to use, like postgres://user:password@host/database")}
	}
	pool, err := postgres.Open(ctx, c.DatabaseURL, 2)
	if err != nil {
		return err
	}
	defer pool.Close()
	return use(c, pool)
}
