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
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"usher/internal/mail"
	"usher/internal/roster"
	"usher/jobs"
)

func mailCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "mail", Short: "See whether mail leaves, and settle what nobody knows of", RunE: group}
	cmd.AddCommand(mailHealthCommand(), mailSettleCommand())
	return cmd
}

// healthLine is how mail fares as the hand tool shows it.
type healthLine struct {
	Way          string            `json:"way"`
	Flowing      bool              `json:"flowing"`
	BlockedUntil *time.Time        `json:"blocked_until,omitempty"`
	BlockedSince *time.Time        `json:"blocked_since,omitempty"`
	Reason       string            `json:"blocked_reason,omitempty"`
	Rate         float64           `json:"requests_per_second"`
	Uncertain    int               `json:"uncertain"`
	LastEventAt  *time.Time        `json:"last_event_at,omitempty"`
	Lanes        []mail.LaneHealth `json:"lanes"`
}

func mailHealthCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Show how much mail waits, whether it leaves, and what is uncertain",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd.Context(), func(pool *pgxpool.Pool) error {
				now := time.Now()
				h, err := (&mail.Outbox{DB: pool, Now: time.Now}).Health(cmd.Context(), uuid.Nil)
				if err != nil {
					return err
				}
				line := healthLine{Way: h.Name, Flowing: true, Rate: h.Rate, Uncertain: h.Uncertain, LastEventAt: h.LastEventAt, Lanes: h.Lanes}
				state := "flows"
				if h.Blocked(now) {
					line.Flowing, line.BlockedUntil, line.BlockedSince, line.Reason = false, &h.BlockedUntil, h.BlockedSince, h.Reason
					state = fmt.Sprintf("blocked until %s: %s", moment(h.BlockedUntil), h.Reason)
				}
				heard := "never"
				if h.LastEventAt != nil {
					heard = ago(now, *h.LastEventAt)
				}
				if err := show(asJSON, line, "LANE\tQUEUED\tHELD\tOLDEST WAITS\tOPEN REQUESTS\tOLDEST ATTEMPT", func(w *tabwriter.Writer) {
					for _, l := range h.Lanes {
						more, waits, tried := "", "-", "-"
						if l.More {
							more = "+"
						}
						if l.WaitsSince != nil {
							waits = ago(now, *l.WaitsSince)
						}
						if l.OldestAttempt != nil {
							tried = ago(now, *l.OldestAttempt)
						}
						fmt.Fprintf(w, "%s\t%d%s\t%d%s\t%s\t%d\t%s\n", l.Lane, l.Queued, more, l.Held, more, waits, l.Open, tried)
					}
				}); err != nil || asJSON {
					return err
				}
				_, err = fmt.Printf("\nWay:        %s, %s\nLimit:      %g requests a second\nUncertain:  %d\nLast event: %s\n", h.Name, state, h.Rate, h.Uncertain, heard)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// ago is how long before now something was.
func ago(now, at time.Time) string { return now.Sub(at).Round(time.Second).String() + " ago" }

func mailSettleCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "settle ID sent|not_sent",
		Short:   "Say what became of an uncertain mail, by the provider's own pages",
		Long:    "Say what became of an uncertain mail, by the provider's own pages.\n\nIn place of one that was not sent a new one is written, if it is still wanted.",
		Example: "  usher mail settle 0190f3c4-7b1e-7cc2-a1f0-2f4f5a3f6f10 not_sent",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || args[1] != "sent" && args[1] != "not_sent" {
				return usageError{errors.New("name the id of one mail, and sent or not_sent; 'usher why EMAIL' shows ids")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseID("the mail's id", args[0])
			if err != nil {
				return err
			}
			return withDatabase(cmd.Context(), func(pool *pgxpool.Pool) error {
				queue, err := jobs.NewInserter(pool, (&parts{log: zerolog.Nop()}).slog())
				if err != nil {
					return err
				}
				r := &roster.Roster{DB: pool, Jobs: queue, Now: time.Now}
				app, err := (&mail.Outbox{DB: pool, Now: time.Now}).AppOf(cmd.Context(), id)
				if err != nil {
					return err
				}
				again, err := r.SettleMail(cmd.Context(), app, id, args[1] == "sent", roster.IdempotencyKey{})
				if err != nil {
					return err
				}
				if asJSON {
					return json.NewEncoder(os.Stdout).Encode(struct {
						Outcome string     `json:"outcome"`
						Instead *uuid.UUID `json:"new_message_id,omitempty"`
					}{args[1], again})
				}
				switch {
				case again != nil:
					fmt.Fprintf(os.Stderr, "It is settled. In its place mail %s is written.\n", again)
				default:
					fmt.Fprintln(os.Stderr, "It is settled.")
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
