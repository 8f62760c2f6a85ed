# Works with GNU make 3.81 (macOS) and newer. Nothing here waits for a
# terminal: every target runs with CI=true and without standard input.

# The linter's one pinned version; the folder's name carries it, so that a new
# one is fetched when this line changes.
LINT_VERSION := v2.15.0
LINT := .usher/lint/$(LINT_VERSION)/golangci-lint

# How long each fuzz target runs; issues of the parsers show within seconds.
FUZZTIME ?= 30s

# How many workers make chaos kills, and the seed of all chance in it; 0 takes
# one from the clock.
KILLS ?= 50
SEED ?= 0

# How long each figure of make bench takes, in seconds.
SECONDS_PER ?= 30

# Longest time one package's tests may take before they are stopped with a
# dump of what every goroutine was waiting for.
TEST_TIMEOUT := 5m

# Where our Go code is; gofmt would look into .usher otherwise.
GO_FOLDERS := cmd internal jobs migrations web

# A fresh machine has no C compiler, and Usher needs none.
export CGO_ENABLED := 0

# Runs a command with a private PostgreSQL of its own, gone afterwards.
# Nothing in it survives, so it does not wait for the disk, and lives in memory
# where 4 GiB are free: the tests make and drop a thousand databases.
test_server := $(shell if [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'END { print $$4 + 0 }')" -gt 4194304 ]; \
	then echo "/dev/shm/usher-test-$$(pwd | cksum | cut -d ' ' -f 1)"; else echo .usher/test; fi)
with_postgres := bin/usher postgres --volatile --dir $(test_server) --

.DEFAULT_GOAL := help

# Steps share bin and the tests' server; each uses all cores by itself.
.NOTPARALLEL:

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

.PHONY: run
run: usher ## build Usher and start all of it, with a demo app
	@exec bin/usher run

.PHONY: build
build: usher ## build bin/usher and bin/fakeresend
	@echo "==> Building bin/fakeresend"
	@go build -o bin/fakeresend ./cmd/fakeresend

.PHONY: usher
usher: # always asks go build, whose cache knows best what changed
	@echo "==> Building bin/usher (the first time fetches its libraries)" >&2
	@go build -o bin/usher ./cmd/usher

.PHONY: test
test: build chromium node ## run all tests, getting what is missing for them
	@echo "==> Running all tests against a private PostgreSQL"
	@$(with_postgres) go tool gotestsum --format pkgname \
		--post-run-command .ci/summary -- \
		-count=1 -timeout $(TEST_TIMEOUT) -vet=off ./...

# The tests come last: their summary is the last line of a good run.
.PHONY: check
check: fmt-check tidy-check vet lint fuzz-and-chaos test ## everything a change must pass

.PHONY: fmt
fmt: ## format the Go code
	@gofmt -w $(GO_FOLDERS)

.PHONY: fmt-check
fmt-check:
	@echo "==> Looking for unformatted code"
	@files=$$(gofmt -l $(GO_FOLDERS)) && \
	if [ -n "$$files" ]; then \
		echo "These files are not formatted; run 'make fmt':" >&2; \
		echo "$$files" >&2; \
		exit 1; \
	fi

.PHONY: tidy-check
tidy-check:
	@echo "==> Comparing go.mod with what is imported"
	@go mod tidy -diff || { echo "go.mod or go.sum is not tidy; run 'go mod tidy'." >&2; exit 1; }

.PHONY: vet
vet:
	@echo "==> Vetting"
	@go vet ./...

.PHONY: lint
lint: $(LINT) ## lint, and check who imports whom
	@echo "==> Linting"
	@$(LINT) run ./...

$(LINT):
	@echo "==> Building golangci-lint $(LINT_VERSION) (once; takes minutes)"
	@GOBIN="$(CURDIR)/$(@D)" go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

.PHONY: fuzz
fuzz: usher ## fuzz every parser, 30 s each, two at once (FUZZTIME=5m for longer)
	@files=$$(grep -rl --include='*_test.go' '^func Fuzz' $(GO_FOLDERS)) || \
		{ echo "No fuzz target found." >&2; exit 1; }; \
	for file in $$files; do \
		sed -n "s|^func \(Fuzz[A-Za-z0-9_]*\)(.*|\1 ./$${file%/*}|p" "$$file"; \
	done | $(with_postgres) xargs -n 2 -P 2 sh -c 'echo "==> Fuzzing $$0 of $$1 for $(FUZZTIME)"; \
		exec go test -vet=off -run "^$$" -fuzz "^$$0$$" -fuzztime $(FUZZTIME) -parallel 1 -fuzzminimizetime 20x "$$1"'

# Chaos mostly waits for what killed workers left, so the fuzzing has the cores
# meanwhile, and steps aside when they are wanted.
.PHONY: fuzz-and-chaos
fuzz-and-chaos: chaos-build
	@printf '%s\n' 'nice -n 19 $(MAKE) --no-print-directory fuzz' '$(MAKE) --no-print-directory chaos-short' | \
	xargs -P 2 -I '{}' sh -c '{}'

.PHONY: bench
bench: build ## measure speed (BENCH=name for one, SECONDS_PER=n for how long)
	@go build -o bin/bench ./cmd/bench
	@bin/bench -run "$(BENCH)" -seconds "$(SECONDS_PER)"

# Each safeguard that mail is sent once is switched off in turn, and the suite
# has to notice.
.PHONY: chaos
chaos: chaos-build ## kill workers while they send and count the mails (KILLS=n, SEED=n)
	@bin/chaos -usher bin/usher-chaos -kills $(KILLS) -seed $(SEED)
	@for mutant in key frozen unknown; do \
		echo "==> Without the safeguard \"$$mutant\", which must show" >&2; \
		bin/chaos -usher bin/usher-chaos-quick -kills 15 -seed $(SEED) -mutant $$mutant -patience 60s || exit 1; \
	done

# The form of it that every check runs, with shorter patience.
.PHONY: chaos-short
chaos-short: chaos-build
	@echo "==> Killing 10 workers while they send"
	@bin/chaos -usher bin/usher-chaos-quick -kills 10 -seed 1

.PHONY: chaos-build
chaos-build: build
	@go build -tags chaos -o bin/usher-chaos ./cmd/usher
	@go build -tags chaos,quick -o bin/usher-chaos-quick ./cmd/usher
	@go build -o bin/chaos ./cmd/chaos

.PHONY: openapi
openapi: usher ## write web/openapi.json anew from the routes
	@bin/usher openapi > web/openapi.json.new
	@mv web/openapi.json.new web/openapi.json
	@echo "Wrote web/openapi.json."

.PHONY: schema
schema: usher ## write migrations/schema.sql anew from the migrations
	@$(with_postgres) go test ./internal/postgres -count=1 -run TestSchemaDump -update
	@echo "Wrote migrations/schema.sql."

.PHONY: clean
clean: ## remove what was built and measured; the demo's data stays
	@rm -rf bin .usher/client .usher/lint .usher/node $(test_server) bench.jsonl coverage.out

# The browser tests need a Chromium or Chrome, under one of the names the
# tests look for.
.PHONY: chromium
chromium:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		if command -v $$name >/dev/null 2>&1; then exit 0; fi; \
	done; \
	for app in "Google Chrome" Chromium; do \
		if [ -x "/Applications/$$app.app/Contents/MacOS/$$app" ]; then exit 0; fi; \
	done; \
	packages="chromium chromium-sandbox fonts-dejavu-core"; \
	if command -v apt-get >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ]; then sudo=; \
		elif [ -t 0 ] && command -v sudo >/dev/null 2>&1; then sudo=sudo; \
		elif sudo -n true 2>/dev/null; then sudo="sudo -n"; \
		else \
			echo "The browser tests need Chromium, and you may not install it. Ask an administrator to run:" >&2; \
			echo "    apt-get update && apt-get install -y --no-install-recommends $$packages" >&2; \
			exit 1; \
		fi; \
		echo "==> Installing Chromium for the browser tests (apt-get)"; \
		$$sudo apt-get -qq update && \
		$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends $$packages >/dev/null; \
	elif command -v brew >/dev/null 2>&1; then \
		echo "==> Installing Chrome for the browser tests (brew)"; \
		brew install --cask google-chrome; \
	else \
		echo "The browser tests need Chromium or Chrome. Install one with your package manager, then run this again." >&2; \
		exit 1; \
	fi

# Tests run Resend's own client for Node.js and the library that verifies
# webhooks, in the versions their lock file names. Debian 12 has Node.js 18,
# macOS a newer one; either will do.
NODE_LOCK := cmd/fakeresend/testdata/node/package-lock.json

# Another compiles and runs the README's calls in TypeScript.
CLIENT_LOCK := web/testdata/client/package-lock.json

.PHONY: node
node: nodejs .usher/node/node_modules/.package-lock.json .usher/client/node_modules/.package-lock.json

.PHONY: nodejs
nodejs:
	@if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1 || ! command -v curl >/dev/null 2>&1; then \
		packages="nodejs npm curl"; \
		if command -v apt-get >/dev/null 2>&1; then \
			if [ "$$(id -u)" = 0 ]; then sudo=; \
			elif [ -t 0 ] && command -v sudo >/dev/null 2>&1; then sudo=sudo; \
			elif sudo -n true 2>/dev/null; then sudo="sudo -n"; \
			else \
				echo "Tests need Node.js and curl, and you may not install it. Ask an administrator to run:" >&2; \
				echo "    apt-get update && apt-get install -y --no-install-recommends $$packages" >&2; \
				exit 1; \
			fi; \
			echo "==> Installing Node.js and curl for tests (apt-get)"; \
			$$sudo apt-get -qq update && \
			$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends $$packages >/dev/null; \
		elif command -v brew >/dev/null 2>&1; then \
			echo "==> Installing Node.js and curl for tests (brew)"; \
			brew install node curl; \
		else \
			echo "Tests need Node.js, npm and curl. Install them with your package manager, then run this again." >&2; \
			exit 1; \
		fi; \
	fi

.usher/node/node_modules/.package-lock.json: $(NODE_LOCK) | nodejs
	@echo "==> Getting libraries for Node.js that tests run (npm)"
	@mkdir -p .usher/node && cp $(dir $(NODE_LOCK))package.json $(NODE_LOCK) .usher/node/
	@npm ci --prefix .usher/node --loglevel=error --ignore-scripts --no-audit --no-fund || { \
		echo "npm could not get them; is the network there? Then run 'make node' again." >&2; exit 1; }
	@touch $@

.usher/client/node_modules/.package-lock.json: $(CLIENT_LOCK) | nodejs
	@echo "==> Getting the TypeScript compiler (npm)"
	@mkdir -p .usher/client && cp $(dir $(CLIENT_LOCK))package.json $(CLIENT_LOCK) .usher/client/
	@npm ci --prefix .usher/client --loglevel=error --ignore-scripts --no-audit --no-fund || { \
		echo "npm could not get it; is the network there? Then run 'make node' again." >&2; exit 1; }
	@touch $@
