# `make demo` and `make test` do all set-up themselves on a fresh Debian machine with Rust.
SHELL := /bin/bash
export PATH := $(CURDIR)/.cache/bin:$(PATH)
JOBS ?= $(shell nproc)

.PHONY: help demo test plans inventory check bench chaos fmt setup

help: ## What can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## Install what the demo needs
	@deploy/dev/setup.sh demo

demo: setup ## Build, then run the ping-pong plan on the embedded default
	cargo build -j $(JOBS) -p groundswell-coordinator
	target/debug/coordinator submit plans/ping-pong/_compositions/pair.toml

test: ## Install what the tests need and run all of them
	@deploy/dev/setup.sh test
	@deploy/dev/test.sh

plans: ## Every plan at smoke scale, those that build rust-libp2p too
	@deploy/dev/setup.sh test
	cargo test --workspace -j $(JOBS) --test plans -- --include-ignored --test-threads=1

inventory: ## Measure the plans at the scale of this machine; the tables of docs/test-inventory.md on stdout
	@deploy/dev/setup.sh test
	cargo test --workspace -j $(JOBS) --test plans the_plans_are_measured -- --ignored --nocapture

check: ## Formatting, lints, documentation, dependencies
	cargo fmt --all -- --check
	cargo fmt --manifest-path plans/Cargo.toml --all -- --check
	cargo fmt --manifest-path plans/interop/beetswap/Cargo.toml -- --check
	cargo clippy --workspace --all-targets -j $(JOBS) -- -D warnings
	cargo clippy --manifest-path plans/Cargo.toml --workspace --all-targets -j $(JOBS) -- -D warnings
	cargo clippy --manifest-path plans/interop/beetswap/Cargo.toml --target-dir plans/target --all-targets -j $(JOBS) -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items -j $(JOBS)
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; \
	else echo "check: cargo-deny is not installed, dependencies not checked (cargo install cargo-deny)"; fi

bench: ## Benchmarks against their peers; tables on stdout
	@deploy/dev/setup.sh bench
	deploy/dev/bench.sh

chaos: ## Break a cluster in every way there is; the table on stdout
	@deploy/dev/setup.sh chaos
	deploy/dev/chaos.sh

fmt: ## Format everything
	cargo fmt --all
	@for plan in plans/*/Cargo.toml plans/interop/beetswap/Cargo.toml; do cargo fmt --manifest-path $$plan; done
