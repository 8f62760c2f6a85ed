package main

import (
	"errors"
	"fmt"
	netmail "net/mail"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"usher/internal/mail"
	"usher/internal/roster"
)

// config is what the environment says. This file is its only reader.
type config struct {
	DatabaseURL   string
	Port          int
	URL           *url.URL // Usher's public address; nil if not set
	Secret        string   // comma list of signing secrets, the first signs
	ResendAPIKey  string   // empty: mail stays in the development mailbox
	ResendBaseURL string
	HookSecrets   mail.HookSecrets // of the provider's webhooks; nil: none is believed
	MailFrom      string
	OpsPassword   string
	Dev           bool // serves the development mailbox
	LogLevel      zerolog.Level
	LogFormat     string // "json" or "text"; empty: the command's choice
}

// usherVariables are the names that begin with USHER_. A wrong one would
// otherwise be a setting that silently does nothing.
var usherVariables = []string{
	"USHER_URL", "USHER_SECRET", "USHER_MAIL_FROM", "USHER_OPS_PASSWORD", "USHER_DEV",
	"USHER_TEST_DATABASE_URL", // read by the tests' helpers
}

// readConfig reads the environment. Its errors name every wrong variable.
func readConfig() (config, error) {
	var wrong []error
	refuse := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }

	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "USHER_") && !slices.Contains(usherVariables, name) {
			refuse("%s is not a setting; did you mean %s?", name, nearest(name, usherVariables))
		}
	}

	c := config{
		DatabaseURL:   os.Getenv("DATABASE_URL"),
		Port:          8080,
		Secret:        os.Getenv("USHER_SECRET"),
		ResendAPIKey:  os.Getenv("RESEND_API_KEY"),
		ResendBaseURL: os.Getenv("RESEND_BASE_URL"),
		MailFrom:      os.Getenv("USHER_MAIL_FROM"),
		OpsPassword:   os.Getenv("USHER_OPS_PASSWORD"),
		LogLevel:      zerolog.InfoLevel,
		LogFormat:     os.Getenv("LOG_FORMAT"),
	}
	if c.DatabaseURL != "" {
		if _, err := pgxpool.ParseConfig(c.DatabaseURL); err != nil { // which leaves the password out
			refuse("DATABASE_URL: %w; it is the PostgreSQL to use, like postgres://user:password@host/database", err)
		}
	}
	if port := os.Getenv("PORT"); port != "" {
		n, err := strconv.Atoi(port)
		if err != nil || n < 0 || n > 65535 {
			refuse("PORT is %q; it is a number from 1 to 65535, or 0 for any free one", port)
		}
		c.Port = n
	}
	if raw := os.Getenv("USHER_URL"); raw != "" {
		u, err := url.Parse(strings.TrimRight(raw, "/"))
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			refuse("USHER_URL is %q; it is the address people reach Usher at, like https://invite.example.org", raw)
		}
		c.URL = u
	}
	if c.Secret != "" {
		if _, err := roster.NewKeyring(c.Secret); err != nil {
			refuse("USHER_SECRET: %w; make one with 'openssl rand -hex 32'", err)
		}
	}
	if c.MailFrom != "" {
		if _, err := netmail.ParseAddress(c.MailFrom); err != nil {
			refuse("USHER_MAIL_FROM is %q; it is a sender like 'Usher <hello@example.org>'", c.MailFrom)
		}
	}
	if c.ResendAPIKey != "" && c.MailFrom == "" {
		refuse("USHER_MAIL_FROM is missing; with RESEND_API_KEY it names the sender, like 'Usher <hello@example.org>'")
	}
	if c.ResendBaseURL != "" {
		u, err := url.Parse(c.ResendBaseURL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			refuse("RESEND_BASE_URL is %q; it is the address of the provider's API, like https://api.resend.com", c.ResendBaseURL)
		}
	}
	if secrets := os.Getenv("RESEND_WEBHOOK_SECRET"); secrets != "" {
		var err error
		if c.HookSecrets, err = mail.ParseHookSecrets(secrets); err != nil {
			refuse("RESEND_WEBHOOK_SECRET: %w; copy it from the webhook's page at Resend, and while it is being replaced list both, old and new, with a comma", err)
		}
	}
	switch dev := os.Getenv("USHER_DEV"); dev {
	case "", "0", "false":
	case "1", "true":
		c.Dev = true
	default:
		refuse("USHER_DEV is %q; it is 1 or 0", dev)
	}
	if level := os.Getenv("LOG_LEVEL"); level != "" {
		parsed, err := zerolog.ParseLevel(level)
		if err != nil {
			refuse("LOG_LEVEL is %q; it is debug, info, warn or error", level)
		}
		c.LogLevel = parsed
	}
	if c.LogFormat != "" && c.LogFormat != "json" && c.LogFormat != "text" {
		refuse("LOG_FORMAT is %q; it is json or text", c.LogFormat)
	}
	if len(wrong) > 0 {
		return c, usageError{errors.Join(wrong...)}
	}
	return c, nil
}

// needDeployment adds what a deployed process cannot do without.
func (c config) needDeployment() error {
	var missing []error
	if c.DatabaseURL == "" {
		missing = append(missing, errors.New("DATABASE_URL is missing; it is the PostgreSQL to use, like postgres://user:password@host/database"))
	}
	if c.Secret == "" {
		missing = append(missing, errors.New("USHER_SECRET is missing; it signs links and cookies. Make one with 'openssl rand -hex 32' and give all processes the same"))
	}
	if c.URL == nil {
		missing = append(missing, errors.New("USHER_URL is missing; it is the address people reach Usher at, like https://invite.example.org"))
	}
	if len(missing) > 0 {
		return usageError{errors.Join(missing...)}
	}
	return nil
}

// nearest is the candidate with the fewest letters changed.
func nearest(name string, candidates []string) string {
	best, distance := "", len(name)+100
	for _, candidate := range candidates {
		if d := levenshtein.ComputeDistance(name, candidate); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}
