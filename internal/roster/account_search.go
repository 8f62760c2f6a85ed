package roster

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

const (
	// maxQuery bounds a search, in characters: nobody's name and address are
	// longer.
	maxQuery = maxAddress

	// maxWords bounds the words of a search that are looked at.
	maxWords = 4

	// maxKeys is how many of an account's keys can begin alike: one for each of
	// the first eight words of its name, and its address.
	maxKeys = 9

	// maxScanned bounds the keys that are read for one word of several, of which
	// most may lack the others: a search takes milliseconds however common its
	// words are. Two words that more than so many people have, and hardly anybody
	// has both, need one letter more.
	maxScanned = 2_000
)

// AccountList says which accounts to list.
type AccountList struct {
	Query   string    // the first letters of words of the name, or of the address; empty: everybody
	Company uuid.UUID // only members of this company; Nil: anybody
	Kind    string    // Professional or Client; empty: both
	After   uuid.UUID // without a query: the last id of the page before; Nil: the first page
	Limit   int       // rows
}

// kinds are the kinds of account to look at.
func (l AccountList) kinds() []string {
	if l.Kind != "" {
		return []string{l.Kind}
	}
	return []string{Client, Professional}
}

// Accounts lists an app's accounts that are neither archived nor merged:
// without a query by their ids, with one by what they are found by, and then
// the first Limit only.
func (r *Roster) Accounts(ctx context.Context, app uuid.UUID, l AccountList) (list []Account, err error) {
	if utf8.RuneCountInString(l.Query) > maxQuery {
		return nil, invalidField("query", "query_too_long", "A search has at most %d characters.", maxQuery)
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if l.Company != uuid.Nil {
			if err := exists(ctx, tx, "company", app, l.Company); err != nil {
				return err
			}
		}
		var sql string
		args := []any{app, l.kinds(), l.After, l.Limit}
		switch query := strings.ToValidUTF8(strings.ReplaceAll(l.Query, "\x00", ""), ""); {
		case strings.TrimSpace(query) != "":
			if sql, args, err = accountSearch(ctx, tx, app, query, l); err != nil {
				return err
			}
		case l.Company != uuid.Nil:
			args = append(args, l.Company)
			sql = `
				SELECT ` + accountColumns + `
				FROM company_member AS c JOIN account ON account.id = c.account_id AND account.app_id = c.app_id
				WHERE c.app_id = $1 AND c.company_id = $5 AND c.account_id > $3 AND account.kind = ANY ($2) AND ` + isLive + `
				ORDER BY c.account_id LIMIT $4`
		default:
			sql = `
				SELECT ` + accountColumns + `
				FROM (SELECT page.id FROM unnest($2::text[]) AS k (kind)
					CROSS JOIN LATERAL (
						SELECT account.id FROM account
						WHERE account.app_id = $1 AND account.kind = k.kind AND (account.app_id, account.kind, account.id) > ($1, k.kind, $3) AND ` + isLive + `
						ORDER BY account.id LIMIT $4) AS page
					ORDER BY page.id LIMIT $4) AS found
				JOIN account ON account.id = found.id
				ORDER BY account.id`
		}
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return fmt.Errorf("list accounts: %w", err)
		}
		if list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Account]); err != nil {
			return fmt.Errorf("list accounts: %w", err)
		}
		return nil
	})
	return list, err
}

// keyRange is the part of account_search that may hold what is searched for.
type keyRange struct {
	from    string
	checked bool // every word has to begin a word of the key
}

// accountSearch is the statement that finds accounts by the first letters of
// words, in any order, or of the address. Each of several words is looked up by
// itself and the others are checked on the keys it leads to: the rarest of them
// leads to few.
func accountSearch(ctx context.Context, tx pgx.Tx, app uuid.UUID, query string, l AccountList) (sql string, args []any, err error) {
	var whole string
	var words []string
	// The planner cannot know how many keys begin alike. Without bitmaps it takes
	// them from the index in their order and stops; else it may sort them all.
	if err := tx.QueryRow(ctx, `
		SELECT fold($1), ARRAY(SELECT w FROM regexp_split_to_table(fold($1), '[\s''’.,-]+') AS w WHERE w <> ''),
			set_config('enable_bitmapscan', 'off', true)`,
		strings.TrimSpace(query)).Scan(&whole, &words, nil); err != nil {
		return "", nil, fmt.Errorf("take a search apart: %w", err)
	}
	words = words[:min(len(words), maxWords)]
	var ranges []keyRange
	if !strings.Contains(whole, "@") { // which no word of a name has
		for _, word := range words {
			ranges = append(ranges, keyRange{word, true})
		}
	}
	if len(words) != 1 || words[0] != whole || len(ranges) == 0 { // it may begin an address
		ranges = append(ranges, keyRange{whole, false})
	}
	begins := make([]string, maxWords) // a blank and the word; "" is in every key
	for i, word := range words {
		begins[i] = " " + word
	}
	from, checked := make([]string, len(ranges)), make([]bool, len(ranges))
	for i, r := range ranges {
		from[i], checked[i] = r.from, r.checked
	}
	args = []any{app, l.kinds(), from, checked, begins[0], begins[1], begins[2], begins[3], maxKeys * l.Limit, l.Limit}
	const allWords = `strpos(' ' || key, $5) > 0 AND strpos(' ' || key, $6) > 0 AND strpos(' ' || key, $7) > 0 AND strpos(' ' || key, $8) > 0`
	const found = `
		SELECT ` + accountColumns + `
		FROM (SELECT account_id, min(key) AS key FROM hit GROUP BY account_id ORDER BY min(key), account_id LIMIT $10) AS found
		JOIN account ON account.id = found.account_id
		ORDER BY found.key, account.id`
	if l.Company != uuid.Nil { // colleagues are fewer than people whose names begin alike
		return `
			WITH hit AS (
				SELECT s.key, s.account_id
				FROM company_member AS c
				CROSS JOIN LATERAL ( -- OFFSET keeps it from being looked up the other way round
					SELECT key, kind, account_id FROM account_search WHERE account_id = c.account_id OFFSET 0) AS s
				JOIN unnest($3::text[], $4::bool[]) AS r (low, checked) ON starts_with(s.key, r.low) AND (NOT r.checked OR ` + allWords + `)
				WHERE c.app_id = $1 AND c.company_id = $11 AND s.kind = ANY ($2) AND $9::int > 0
			)` + found, append(args, l.Company), nil
	}
	return fmt.Sprintf(`
		WITH hit AS (
			SELECT near.key, near.account_id
			FROM unnest($2::text[]) AS k (kind)
			CROSS JOIN unnest($3::text[], $4::bool[]) AS r (low, checked)
			CROSS JOIN LATERAL (
				SELECT key, account_id FROM (
					SELECT s.key, s.account_id FROM account_search AS s
					WHERE s.app_id = $1 AND s.kind = k.kind AND s.key >= r.low AND s.key < r.low || U&'\+10FFFF'
					ORDER BY s.key LIMIT %d) AS scanned
				WHERE NOT r.checked OR `+allWords+`
				LIMIT $9) AS near
		)`, maxScanned) + found, args, nil
}
