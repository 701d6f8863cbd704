# Targets explain themselves: make help.
SHELL := /bin/bash
.DEFAULT_GOAL := help
GO ?= go
BIN := bin
# Tools of make lint and make vulnerabilities.
GOFUMPT := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0
# Compares runs of make bench-micro.
BENCHSTAT := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
export CGO_ENABLED ?= 0
# Packages with micro-benchmarks that need no server: reading, pgoutput, merge, encoders, what is published, apply scheduling, net effect.
MICRO := ./pipeline ./pipeline/wire ./dumper ./dumper/pgoutput ./joiner/gid ./joiner/merge ./output ./output/json ./output/jetstream ./apply/schedule ./apply/postgres/net
BASE ?= $(wildcard test/bench/micro-baseline.txt)

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/cdcd and bin/cdcctl
	@mkdir -p $(BIN)
	$(GO) build -trimpath -o $(BIN)/ ./cmd/cdcd ./cmd/cdcctl

.PHONY: demo
demo: postgresql build ## A throw-away sharded cluster, a target, traffic, a killed node, proof (KEEP=1: leave it running)
	$(BIN)/cdcd demo $(if $(KEEP),--keep) $(DEMOFLAGS)

.PHONY: test
test: postgresql mariadb ## Everything: unit, property, simulation, and tests on real PostgreSQL, MariaDB and NATS servers
	$(GO) vet ./...
	CDC_SIM_MUTANTS=all $(GO) test -timeout 20m $(TESTFLAGS) ./...
	$(GO) test -timeout 5m -tags invariants ./joiner/...

.PHONY: test-quick
test-quick: ## Only tests that need no PostgreSQL and no MariaDB
	$(GO) test ./pipeline ./pipeline/archive ./pipeline/control ./pipeline/dsn ./pipeline/embedded ./pipeline/format ./pipeline/moves ./pipeline/mysql \
	  ./pipeline/owner ./pipeline/pattern ./pipeline/pause ./pipeline/reading ./pipeline/shape ./pipeline/spill ./pipeline/wire ./dumper/pgoutput \
	  ./joiner/... ./output ./output/jetstream/... ./output/json ./output/sql ./apply ./apply/files ./apply/schedule ./test/lint ./test/sim

.PHONY: versions
versions: postgresql mariadb ## The tests on real servers, on the installed PostgreSQL, 16, 17 and 18
	@set -e; for major in installed 16 17 18; do \
	  bin=; [ $$major = installed ] || bin=$$($(GO) run ./test/versions $$major); echo "== PostgreSQL $$major ($$bin)"; \
	  CDC_PG_BIN=$$bin $(GO) test -count=1 -timeout 20m ./dumper ./apply/... ./pipeline/... ./cmd/... ./test/e2e; \
	done

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZTIME (default 30s) each
	test/fuzz.sh $(or $(FUZZTIME),30s)

.PHONY: sim
sim: ## The joiner's simulator with more seeds (SEEDS, default 100000)
	CDC_SIM_SEEDS=$(or $(SEEDS),100000) $(GO) test -timeout 60m -run TestWorlds -v ./test/sim

.PHONY: chaos
chaos: postgresql ## Every fault: network, PostgreSQL, NATS, disks, clocks (takes more than half an hour)
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || ! command -v apt-get >/dev/null || \
	  { [ "$$(id -u)" = 0 ] || sudo=sudo; $$sudo apt-get install -q -y --no-install-recommends faketime; }
	CDC_CHAOS=all $(GO) test -count=1 -timeout 60m -v $(TESTFLAGS) ./test/chaos

.PHONY: soak
soak: postgresql ## Random faults for DURATION (default 10m), NATS (default 1) servers; a report in bin/soak.md
	@mkdir -p $(BIN)
	CDC_SOAK=$(or $(DURATION),10m) CDC_SOAK_NATS=$(NATS) CDC_SOAK_REPORT=$(CURDIR)/$(BIN)/soak.md \
	  $(GO) test -count=1 -timeout 0 -run 'TestSoak$$' -v $(TESTFLAGS) ./test/chaos

.PHONY: huge
huge: postgresql ## One transaction of ROWS (default 10000000) rows over three shards, beside small ones; also with the node killed in the middle
	CDC_HUGE=$(or $(ROWS),10000000) $(GO) test -count=1 -timeout 0 -run 'TestHuge$$' -v $(TESTFLAGS) ./test/chaos

.PHONY: copy
copy: postgresql ## A copy of ROWS (default 3000000) rows over three shards under load, measured beside COPY and native subscriptions
	CDC_COPY=$(or $(ROWS),3000000) $(GO) test -count=1 -timeout 0 -run 'TestCopySpeed$$' -v $(TESTFLAGS) ./test/chaos

.PHONY: bench
bench: bench-tool ## Measure beside pg_recvlogical and native subscriptions (about an hour); reports in bin/bench (BENCHFLAGS="-workloads a -rounds 3")
	$(BIN)/bench-tool -out $(BIN)/bench $(BENCHFLAGS)
	$(GO) run -C test/bench/plot . $(CURDIR)/$(BIN)/bench/bench.json $(CURDIR)/$(BIN)/bench/bench.svg

.PHONY: bench-quick
bench-quick: bench-tool ## The same in brief, in less than three minutes: small backlogs, two rounds, fewer contenders; reports in bin/bench-quick
	$(BIN)/bench-tool -out $(BIN)/bench-quick -workloads abc -size 0.1 -rounds 2 -loads 50 -delay-time 3s \
	  -contenders '^(pg_recvlogical|capture|durable|native commit=off$$|(path|stored) commit=off workers=4)' $(BENCHFLAGS)
	$(GO) run -C test/bench/plot . $(CURDIR)/$(BIN)/bench-quick/bench.json $(CURDIR)/$(BIN)/bench-quick/bench.svg

.PHONY: bench-docs
bench-docs: ## Put the last report of make bench into docs/performance.md
	$(GO) run ./test/bench -out $(BIN)/bench -docs docs/performance.md
	cp $(BIN)/bench/bench.svg docs/bench.svg

# It knows what it was built from.
.PHONY: bench-tool
bench-tool: postgresql
	@mkdir -p $(BIN)
	$(GO) build -ldflags "-X main.revision=$$(git describe --always --dirty 2>/dev/null || echo unknown)" -o $(BIN)/bench-tool ./test/bench

.PHONY: bench-micro
bench-micro: ## Micro-benchmarks, COUNT (default 6) times, compared with BASE (default test/bench/micro-baseline.txt; empty: with nothing)
	@mkdir -p $(BIN)
	set -o pipefail; $(GO) test -run '^$$' -bench . -benchmem -cpu 1 -count $(or $(COUNT),6) $(MICRO) | tee $(BIN)/bench-micro.txt
	$(if $(BASE),$(GO) run $(BENCHSTAT) $(BASE) $(BIN)/bench-micro.txt)

.PHONY: bench-micro-baseline
bench-micro-baseline: ## Make the last result of make bench-micro the one that later ones are compared with: on a quiet machine only
	cp $(BIN)/bench-micro.txt test/bench/micro-baseline.txt

.PHONY: lint
lint: ## Formatting, vet, staticcheck, import rules (fetches its tools; none is a dependency of the product)
	@out=$$($(GO) run $(GOFUMPT) -l .) || exit; test -z "$$out" || { echo "not formatted; gofumpt -w these:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(STATICCHECK) -tags invariants ./joiner/...
	$(GO) test ./test/lint

.PHONY: vulnerabilities
vulnerabilities: ## Known vulnerabilities of what is linked in (asks vuln.go.dev)
	$(GO) run $(GOVULNCHECK) ./cmd/...

.PHONY: postgresql
postgresql: ## Find PostgreSQL 15 or newer, or install the distribution's package
	@test/ensure-postgresql.sh

.PHONY: mariadb
mariadb: ## Find MariaDB, or install the distribution's package
	@test/ensure-mariadb.sh

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BIN) .cache
