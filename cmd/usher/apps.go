package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"usher/internal/roster"
)

// withRoster gives a hand tool the domain over DATABASE_URL.
func withRoster(cmd *cobra.Command, use func(*roster.Roster) error) error {
	return withDatabase(cmd.Context(), func(pool *pgxpool.Pool) error {
		return use(&roster.Roster{DB: pool, Now: time.Now})
	})
}

// show prints rows as a table for people, or value as JSON for scripts.
func show(asJSON bool, value any, header string, rows func(w *tabwriter.Writer)) error {
	if asJSON {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, header)
	rows(w)
	return w.Flush()
}

// parseID reads an id that was typed.
func parseID(what, typed string) (uuid.UUID, error) {
	parsed, err := uuid.Parse(typed)
	if err != nil {
		return parsed, usageError{fmt.Errorf("%s is %q; it is an id like 0190f3c4-7b1e-7cc2-a1f0-2f4f5a3f6f10", what, typed)}
	}
	return parsed, nil
}

func appsCommand() *cobra.Command {
	apps := &cobra.Command{Use: "apps", Short: "Create and list apps", RunE: group}
	var n roster.NewApp
	var asJSON bool
	create := &cobra.Command{
		Use:     "create",
		Short:   "Create an app",
		Example: "  usher apps create --name 'Harbour Portal' --time-zone Europe/Madrid --locale es",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n.Name == "" {
				return usageError{errors.New("--name is missing; it is what people know the app as")}
			}
			return withRoster(cmd, func(r *roster.Roster) error {
				app, err := r.CreateApp(cmd.Context(), n)
				if err != nil {
					return err
				}
				return show(asJSON, appRow(app), appHeader, func(w *tabwriter.Writer) { appRow(app).write(w) })
			})
		},
	}
	create.Flags().StringVar(&n.Name, "name", "", "what people know it as (required)")
	create.Flags().StringVar(&n.URL, "url", "", "where people go after they accepted")
	create.Flags().StringVar(&n.Locale, "locale", "en", "language where a person's is not known")
	create.Flags().StringVar(&n.TimeZone, "time-zone", "UTC", "time zone where a person's and company's are not known")
	create.Flags().StringVar(&n.BrandColor, "color", "", "brand colour, like #0f5c7a")
	create.Flags().StringVar(&n.LogoURL, "logo", "", "https address of the logo")
	create.Flags().StringVar(&n.SupportEmail, "support", "", "address people can ask for help")
	create.Flags().StringVar(&n.MailFrom, "from", "", "sender of its mail, like 'Harbour <hello@example.org>'; the domain must be verified with the provider")
	create.Flags().BoolVar(&asJSON, "json", false, "print JSON")

	list := &cobra.Command{
		Use:   "list",
		Short: "List all apps",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withRoster(cmd, func(r *roster.Roster) error {
				all, err := r.Apps(cmd.Context())
				if err != nil {
					return err
				}
				rows := make([]appLine, len(all))
				for i, app := range all {
					rows[i] = appRow(app)
				}
				return show(asJSON, rows, appHeader, func(w *tabwriter.Writer) {
					for _, row := range rows {
						row.write(w)
					}
				})
			})
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	apps.AddCommand(create, list)
	return apps
}

const appHeader = "ID\tNAME\tLOCALE\tTIME ZONE\tCREATED"

// appLine is an app as the hand tools show it.
type appLine struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Locale    string    `json:"locale"`
	TimeZone  string    `json:"time_zone"`
	CreatedAt time.Time `json:"created_at"`
}

func appRow(a roster.App) appLine {
	return appLine{a.ID.String(), a.Name, a.Locale, a.TimeZone, a.CreatedAt}
}

func (a appLine) write(w *tabwriter.Writer) {
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", a.ID, a.Name, a.Locale, a.TimeZone, a.CreatedAt.Format(time.DateTime))
}

func keysCommand() *cobra.Command {
	keys := &cobra.Command{Use: "keys", Short: "Create, list and revoke API keys", RunE: group}
	var app, name string
	var asJSON bool
	create := &cobra.Command{
		Use:     "create",
		Short:   "Create an API key; it is shown this once",
		Example: "  usher keys create --app 0190f3c4-7b1e-7cc2-a1f0-2f4f5a3f6f10 --name backend",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			appID, err := parseID("--app", app)
			if err != nil {
				return err
			}
			return withRoster(cmd, func(r *roster.Roster) error {
				key, record, err := r.CreateAPIKey(cmd.Context(), appID, name)
				if err != nil {
					return err
				}
				row := keyRow(record)
				row.Key = key
				return show(asJSON, row, "ID\tKEY (shown this once)", func(w *tabwriter.Writer) { fmt.Fprintf(w, "%s\t%s\n", row.ID, key) })
			})
		},
	}
	create.Flags().StringVar(&app, "app", "", "id of the app (required)")
	create.Flags().StringVar(&name, "name", "default", "what it is for")
	create.Flags().BoolVar(&asJSON, "json", false, "print JSON")

	list := &cobra.Command{
		Use:   "list",
		Short: "List an app's API keys",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			appID, err := parseID("--app", app)
			if err != nil {
				return err
			}
			return withRoster(cmd, func(r *roster.Roster) error {
				all, err := r.APIKeys(cmd.Context(), appID)
				if err != nil {
					return err
				}
				rows := make([]keyLine, len(all))
				for i, k := range all {
					rows[i] = keyRow(k)
				}
				return show(asJSON, rows, "ID\tNAME\tKEY\tCREATED\tREVOKED", func(w *tabwriter.Writer) {
					for _, row := range rows {
						revoked := "-"
						if row.RevokedAt != nil {
							revoked = row.RevokedAt.Format(time.DateTime)
						}
						fmt.Fprintf(w, "%s\t%s\t%s…\t%s\t%s\n", row.ID, row.Name, row.Prefix, row.CreatedAt.Format(time.DateTime), revoked)
					}
				})
			})
		},
	}
	list.Flags().StringVar(&app, "app", "", "id of the app (required)")
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")

	revoke := &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke an API key; it stops working within a second",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name the id of one key; 'usher keys list' shows them")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			keyID, err := parseID("the key's id", args[0])
			if err != nil {
				return err
			}
			return withRoster(cmd, func(r *roster.Roster) error {
				if err := r.RevokeAPIKey(cmd.Context(), keyID); err != nil {
					return err
				}
				fmt.Fprintln(os.Stderr, "The key is revoked.")
				return nil
			})
		},
	}
	keys.AddCommand(create, list, revoke)
	return keys
}

// keyLine is an API key as the hand tools show it.
type keyLine struct {
	ID        string     `json:"id"`
	AppID     string     `json:"app_id"`
	Name      string     `json:"name"`
	Prefix    string     `json:"prefix"`
	Key       string     `json:"key,omitempty"`
	CreatedAt time.Time  `json:"created_at"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
}

func keyRow(k roster.APIKey) keyLine {
	return keyLine{ID: k.ID.String(), AppID: k.AppID.String(), Name: k.Name, Prefix: k.Prefix, CreatedAt: k.CreatedAt, RevokedAt: k.RevokedAt}
}
