// Package migrations holds the steps that build Usher's schema, in order.
package migrations

import "embed"

// Files are the numbered SQL files, NNNN_name.sql. They only ever move
// forward, and each must be safe while the previous release still runs.
//
//go:embed *.sql
var Files embed.FS
