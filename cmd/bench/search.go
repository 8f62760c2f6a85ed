package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"usher/internal/postgres"
	"usher/internal/roster"
)

const (
	// searchDatabase is made anew by every run that searches.
	searchDatabase = "usher_bench_search"

	// searchAccounts is how many people the app has that is searched.
	searchAccounts = 1_000_000

	// searchRows is how many are asked for, as by a list under a text field.
	searchRows = 20
)

// firstNames and lastNames begin the names of the people who are searched. A
// number in another notation follows each, so that names are as many as people
// and begin alike as people's do.
var (
	firstNames = []string{
		"Maria", "Martin", "Anna", "Andreas", "José", "Zoë", "Søren", "Jean-Luc", "Olga", "Peter", "Lucía", "Noémie", "Ann", "Bea", "Carlos", "Dieter", "Eva", "Felix", "Greta", "Hugo",
	}
	lastNames = []string{
		"Lindqvist", "Linden", "Müller", "Martínez", "Moreno", "O’Brien", "Ångström", "Schmidt", "García", "Dupont", "Rossi", "Novák", "Kowalski", "Smith", "Jensen", "Petit", "Weber", "Costa", "Silva", "Berg",
	}
)

// accountSearch measures how long the search for an account takes among a
// million, as the operation that the API calls. The floor reads as many accounts
// as it answers by their ids.
func accountSearch(ctx context.Context, b *bench) (figure, error) {
	f := figure{Unit: "ms", Connections: 1}
	if err := b.recreate(ctx, searchDatabase); err != nil {
		return f, err
	}
	pool, err := postgres.Open(ctx, b.server.URL(searchDatabase), 4)
	if err != nil {
		return f, err
	}
	defer pool.Close()
	if err := postgres.Migrate(ctx, pool); err != nil {
		return f, err
	}
	r := &roster.Roster{DB: pool, Now: time.Now}
	app, err := r.CreateApp(ctx, roster.NewApp{Name: "Harbour Portal", TimeZone: "Europe/Madrid"})
	if err != nil {
		return f, err
	}
	if err := fillAccounts(ctx, pool, app.ID); err != nil {
		return f, err
	}
	random := rand.New(rand.NewPCG(1, 2)) // the same searches in every run
	var ours, floor []time.Duration
	var worst time.Duration
	worstQuery := ""
	for start := time.Now(); time.Since(start) < b.perFigure && ctx.Err() == nil; {
		query := searchQuery(random)
		began := time.Now()
		found, err := r.Accounts(ctx, app.ID, roster.AccountList{Query: query, Limit: searchRows})
		if err != nil {
			return f, fmt.Errorf("search %q: %w", query, err)
		}
		took := time.Since(began)
		ours = append(ours, took)
		if took > worst {
			worst, worstQuery = took, query
		}
		ids := make([]uuid.UUID, max(1, len(found)))
		for i, account := range found {
			ids[i] = account.ID
		}
		if took, err = readByID(ctx, pool, ids); err != nil {
			return f, err
		}
		floor = append(floor, took)
	}
	if len(ours) == 0 {
		return f, errors.Join(errors.New("nothing was searched"), ctx.Err())
	}
	progress("the slowest search, for %q, took %s", worstQuery, worst.Round(time.Millisecond))
	f.N = len(ours)
	f.Value, f.Floor = milliseconds(quantile(ours, 0.99)), milliseconds(quantile(floor, 0.99))
	f.P99 = f.Value
	return f, nil
}

// fillAccounts stores the people, one in twenty of them a professional.
func fillAccounts(ctx context.Context, pool *pgxpool.Pool, app uuid.UUID) error {
	progress("storing %d accounts", searchAccounts)
	tx, err := pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("store accounts: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	for _, statement := range []string{
		`SET LOCAL session_replication_role = replica`, // foreign keys need not be looked up for each row
		`ALTER TABLE account_search DROP CONSTRAINT account_search_pkey`,
		`DROP INDEX account_search_account`,
		`INSERT INTO account (id, app_id, kind, status, full_name, email, email_key, created_at)
			SELECT gen_random_uuid(), @app, CASE n % 20 WHEN 0 THEN 'professional' ELSE 'client' END, 'active',
				f || ' ' || l || translate(to_hex(n), '0123456789', 'ghijklmnop'), e, e, now()
			FROM (SELECT n, (@first::text[])[1 + (hashint4(n) & 65535) % 20] AS f, (@last::text[])[1 + (hashint4(n + 7) & 65535) % 20] AS l,
				to_hex(hashint4(n)) || '.' || n || '@example.org' AS e FROM generate_series(1, @n::int) AS n) AS person`,
		`INSERT INTO account_search (app_id, kind, key, account_id)
			SELECT app_id, kind, key, id FROM account, search_keys(full_name, email_key) AS key`,
		`ALTER TABLE account_search ADD PRIMARY KEY (app_id, kind, key, account_id)`,
		`CREATE INDEX account_search_account ON account_search (account_id)`,
	} {
		if _, err := tx.Exec(ctx, statement, pgx.NamedArgs{"app": app, "n": searchAccounts, "first": firstNames, "last": lastNames}); err != nil {
			return fmt.Errorf("store accounts: %w", err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("store accounts: %w", err)
	}
	if _, err := pool.Exec(ctx, `VACUUM ANALYZE`); err != nil {
		return fmt.Errorf("store accounts: %w", err)
	}
	return nil
}

// searchQuery is what somebody types: one to three letters, two words, what
// nobody is called, or the beginning of an address.
func searchQuery(random *rand.Rand) string {
	first, last := []rune(firstNames[random.IntN(len(firstNames))]), []rune(lastNames[random.IntN(len(lastNames))])
	switch random.IntN(8) {
	case 0:
		return string(first[:1])
	case 1:
		return string(last[:2])
	case 2:
		return string(first[:3])
	case 3:
		return string(first) + " " + string(last[:1+random.IntN(3)])
	case 4:
		return string(last[:3]) + " " + string(first[:2])
	case 5:
		return string(first[:2]) + " xq" // one word that many have, and one that nobody has
	case 6:
		return "qqq" + string(last)
	default:
		return fmt.Sprintf("%x.%d@", random.Uint32(), random.IntN(searchAccounts))[:2+random.IntN(6)]
	}
}

// readByID is what a search cannot do less than.
func readByID(ctx context.Context, pool *pgxpool.Pool, ids []uuid.UUID) (time.Duration, error) {
	began := time.Now()
	rows, err := pool.Query(ctx, `SELECT id, full_name, email FROM account WHERE id = ANY ($1)`, ids)
	if err != nil {
		return 0, fmt.Errorf("read accounts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
	}
	return time.Since(began), rows.Err()
}
