# `make help` lists the targets.

# Every cargo call uses Cargo.lock as it is committed.
CARGO := cargo
LOCKED := --locked
# Snapshots that differ fail; they are never rewritten by a run of these targets.
export INSTA_UPDATE := no

.PHONY: help setup promtool demo test ci fmt fmt-check lint fuzz-check doc deny deploy-check \
	sdk-test bench bench-growth soak fuzz
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing (apt; Debian and its like)
	@scripts/setup

# Fetched once, into target/; nothing is installed.
promtool: setup
	@scripts/promtool --version >/dev/null

demo: setup ## Build Beckon and run it with a private PostgreSQL and sample data
	BECKON_COMMIT=$$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown) \
		$(CARGO) build --release $(LOCKED)
	./target/release/beckon demo

# What an overload leaves of the speed is measured, so these tests run one by one and beside nothing.
test: setup promtool ## Run all tests but the SDKs', on a PostgreSQL they start themselves
	$(CARGO) test $(LOCKED) -- --skip overload::
	$(CARGO) test $(LOCKED) --test it overload:: -- --test-threads 1

# A test that cannot be run here is a failure (docs/soak.md).
ci: export CI := 1
ci: setup fmt-check lint fuzz-check doc deny deploy-check test sdk-test ## Everything a change must pass

fmt: ## Format the code
	$(CARGO) fmt

fmt-check:
	$(CARGO) fmt --check

lint: setup ## Run clippy; a warning is an error
	$(CARGO) clippy --all-targets $(LOCKED) -- -D warnings

# The fuzz targets are a workspace of their own, which clippy does not see. The path of a library that
# nothing links keeps libFuzzer from being built, which takes a C++ compiler.
fuzz-check: setup ## Check that the fuzz targets compile
	CARGO_TARGET_DIR=target CUSTOM_LIBFUZZER_PATH=/none/libfuzzer.a \
		$(CARGO) check --manifest-path fuzz/Cargo.toml $(LOCKED)

doc: setup ## Build the documentation; a broken link is an error
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps $(LOCKED)

# The tool is built once a machine, without optimisation: it has little to do here, and building
# it optimised takes longer than everything else in `make ci`. Advisories are left out, as they
# change from day to day and would fail a change that has nothing to do with them.
deny: ## Check the dependencies' licences, bans and sources
	@$(CARGO) deny --version >/dev/null 2>&1 || \
		$(CARGO) install --locked --debug --quiet cargo-deny
	$(CARGO) deny --locked check --hide-inclusion-graph licenses bans sources
	$(CARGO) deny --locked --manifest-path fuzz/Cargo.toml --config fuzz/deny.toml check \
		--hide-inclusion-graph licenses bans sources

deploy-check: promtool ## Check the alert rules, their tests and the example of a scrape
	scripts/promtool check rules deploy/prometheus/alerts.yml
	scripts/promtool test rules deploy/prometheus/alerts_test.yml
	scripts/promtool check config deploy/prometheus/prometheus.yml

sdk-test: setup ## Run the real Segment SDKs against a running Beckon
	@scripts/setup sdk
	$(CARGO) build $(LOCKED)
	BECKON_BIN=target/debug/beckon tests/sdk/run

# The example is a shim that the second run of the ingest bench preloads into its Postgres.
bench: setup ## Run the benches: ingest and matching, each beside its limits
	$(CARGO) build --release --example slow_sync $(LOCKED)
	$(CARGO) bench --bench ingest $(LOCKED)
	$(CARGO) bench --bench ingest $(LOCKED) -- --slow-sync
	$(CARGO) bench --bench write_path $(LOCKED) -- --millis 300 --batch 100
	$(CARGO) bench --bench matching $(LOCKED)

bench-growth: setup ## Measure ingest as the database grows (13 minutes, 25 GB of disk)
	$(CARGO) bench --bench growth $(LOCKED)

# proptest reads PROPTEST_CASES itself; tests that have a long form look for BECKON_SOAK. CI makes
# tests fail that would say that they could not be run (docs/soak.md), --must the bench that misses
# one of its goals.
soak: setup promtool ## Run the long forms of the tests
	BECKON_SOAK=1 CI=1 PROPTEST_CASES=10000 $(CARGO) test --release $(LOCKED) -- --skip overload::
	BECKON_SOAK=1 CI=1 $(CARGO) test --release $(LOCKED) --test it overload:: -- --test-threads 1
	$(CARGO) bench --bench ingest $(LOCKED) -- --part memory --memory-seconds 3600 --must

fuzz: ## Fuzz the rule compiler and the decoder, ten minutes each (docs/fuzzing.md)
	@scripts/setup fuzz
	scripts/fuzz 600
