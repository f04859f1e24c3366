# The one door to this repository, for people and for CI. `make help` lists the targets.
#
# Everything that make builds lies in .venv/, target/ and python/sluicegate/_native*.so. What is up to date is known by
# stamp files in .venv/, so that a target with nothing to do ends at once.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
CARGO ?= cargo
# Further arguments, e.g. `make test PYTEST_ARGS="-k sns"`.
CARGO_TEST_ARGS ?=
PYTEST_ARGS ?=
# Many tests wait for most of their time, so there are more processes than cores. PYTEST_ARGS="-n 0" for a debugger.
PYTEST_PROCESSES := -n 6 --dist worksteal
BENCH_ARGS ?=
FUZZ_ARGS ?=

# maturin installs into $VIRTUAL_ENV and refuses to choose between that and conda; both builds of the native module are
# for the same interpreter.
export VIRTUAL_ENV := $(VENV)
export PYO3_PYTHON := $(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport CONDA_PREFIX PYTHONHOME PYTHONPATH
# Tests start gateways by the hundred: each would compile every module anew, a quarter of what its start costs.
unexport PYTHONDONTWRITEBYTECODE

# Directories too: their time changes when a file is deleted.
RUST_SOURCES := $(shell find crates -type f -o -type d) Cargo.toml Cargo.lock pyproject.toml
NATIVE_MISSING := $(if $(wildcard python/sluicegate/_native*.so),,FORCE)

.PHONY: help setup run test soak outage test-languages check bench fuzz lock clean test-tools rust-tools FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.run $(VENV)/.native ## Make .venv and build everything into it

run: setup ## Run a local gateway (`sluicegate dev`) and print what to try
	@exec $(BIN)/sluicegate dev

test: $(VENV)/.dev $(VENV)/.native test-tools ## Run the tests of Rust and Python
	$(CARGO) test --workspace --locked $(CARGO_TEST_ARGS)
	$(CARGO) test --manifest-path fuzz/Cargo.toml --target-dir target --no-default-features --locked
	$(BIN)/python -m pytest $(PYTEST_PROCESSES) $(PYTEST_ARGS)

# Tests that are short in `make test`, as their subjects ask for them: minutes instead of seconds, one after the other.
soak: $(VENV)/.dev $(VENV)/.native test-tools ## Run the long forms of tests that wait or kill for long
	SLUICEGATE_SCHEDULED_ENTRIES=10000 SLUICEGATE_SCHEDULED_SECONDS=60 SLUICEGATE_SCHEDULED_KILLS=20 \
	  $(BIN)/python -m pytest -n 0 -rP $(PYTEST_ARGS) tests/integration/test_scheduled.py
	SLUICEGATE_FULL_DISK_SECONDS=30 SLUICEGATE_FLOOD_SECONDS=60 \
	  $(BIN)/python -m pytest -n 0 $(PYTEST_ARGS) tests/integration/test_full_disk.py tests/integration/test_flood.py

# A minute more where nothing is cached; `make test` then runs what this has built.
test-languages: $(VENV)/.dev $(VENV)/.native test-tools ## Build the examples in Go and Rust, and run them
	SLUICEGATE_TEST_LANGUAGES=1 $(BIN)/python -m pytest -n 0 tests/integration/test_languages.py $(PYTEST_ARGS)

# Not Markdown: the README shows what `sluicegate dev` prints, to the letter.
check: $(VENV)/.dev $(VENV)/.native rust-tools ## Check style, types, lints, and the instructions of the packet path
	$(BIN)/ruff check
	$(BIN)/ruff format --check --exclude '*.md'
	$(CARGO) fmt --all --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest sluicegate._native
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --manifest-path fuzz/Cargo.toml --target-dir target --no-default-features --all-targets --locked -- -D warnings
	$(BIN)/python -m bench.instructions

bench: $(VENV)/.dev $(VENV)/.native ## Measure against C loops, in the same run (BENCH_ARGS="--quick")
	$(BIN)/python -m bench $(BENCH_ARGS)

outage: $(VENV)/.dev $(VENV)/.native ## A service that is slow, fails, is gone, comes back: a minute each, at full rate
	OUTAGE_SECONDS=60 $(BIN)/python -m pytest -n 0 -s tests/integration/test_outage.py

fuzz: $(VENV)/.fuzz $(VENV)/.native ## Fuzz every parser, 60 s each (FUZZ_ARGS="--seconds 600 message")
	$(BIN)/python fuzz/run.py $(FUZZ_ARGS)

lock: ## Write the lock files anew from pyproject.toml (needs uv)
	@command -v uv >/dev/null || { echo 'missing: uv; install it (pip install uv), then run make lock again' >&2; exit 1; }
	requirements/update.sh

clean: ## Remove everything that make made
	rm -rf .venv target dist fuzz/target fuzz/corpus fuzz/artifacts .mypy_cache .pytest_cache .ruff_cache .hypothesis python/sluicegate/_native*.so
	find python tests docs examples bench fuzz -type d -name __pycache__ -prune -exec rm -rf {} +

# The environment. The locks name every package with its hash; the development one contains the other.

$(VENV)/.venv:
	@$(FIND_TOOLS); echo "making .venv with $$python"; "$$python" -m venv $(VENV)
	touch $@

$(VENV)/.run: requirements/run.lock $(VENV)/.venv
	$(BIN)/pip install --quiet --require-hashes --requirement requirements/run.lock
	touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.venv
	$(BIN)/pip install --quiet --require-hashes --requirement requirements/dev.lock
	touch $@ $(VENV)/.run

$(VENV)/.fuzz: requirements/fuzz.lock $(VENV)/.dev
	$(BIN)/pip install --quiet --require-hashes --requirement requirements/fuzz.lock
	touch $@

$(VENV)/.native: $(RUST_SOURCES) $(NATIVE_MISSING) | $(VENV)/.run
	@$(FIND_TOOLS)
	$(BIN)/maturin develop --release --locked
	touch $@

FORCE:

# What must be there before. Sets $$python, the interpreter that .venv is made from.
define FIND_TOOLS
missing=0; say() { echo "missing: $$*" >&2; missing=1; }; \
wanted=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml); \
python=$$(for found in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3; do \
  "$$found" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$found" && break; done || true); \
if [ -z "$$python" ]; then say 'CPython 3.11 or newer; install it (apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.11'; \
elif ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then say "the venv module of $$python; install it (apt-get install python3-venv)"; fi; \
command -v cc >/dev/null || say 'a C compiler; install one (apt-get install gcc libc6-dev)'; \
have=$$($(CARGO) --version 2>/dev/null | cut -d' ' -f2 || true); \
if [ -z "$$have" ]; then say "cargo; install Rust $$wanted or newer (https://rustup.rs)"; \
elif [ "$$(printf '%s\n' "$$wanted" "$$have" | sort -V | head -1)" != "$$wanted" ]; then say "Rust $$wanted or newer, this is $$have; update it (rustup update, or https://rustup.rs)"; fi; \
[ "$$missing" = 0 ] || exit 1
endef

# Tests that need one of these commands skip themselves without it, and say so.
TEST_TOOLS := ip:iproute2 nft:nftables ping:iputils-ping wg:wireguard-tools wireguard-go:wireguard-go coap-client-notls:libcoap3-bin node:nodejs

test-tools:
	@absent=; for tool in $(TEST_TOOLS); do command -v "$${tool%%:*}" >/dev/null || absent="$$absent $${tool##*:}"; done; \
	[ -n "$$absent" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing for the tests:$$absent"; export DEBIAN_FRONTEND=noninteractive; \
	  { apt-get -qq update && apt-get -qq install --no-install-recommends $$absent >/dev/null; } </dev/null && exit 0; \
	fi; \
	echo "skipped: tests that need$$absent; install these packages as root to run them" >&2

rust-tools:
	@for tool in fmt clippy; do $(CARGO) $$tool --version >/dev/null 2>&1 || { \
	  echo "missing: cargo $$tool; install it (rustup component add rustfmt clippy)" >&2; exit 1; }; done
