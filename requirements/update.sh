#!/bin/sh
# Writes the lock files anew from pyproject.toml. Needs `uv` (pip install uv); `make setup` does not.
set -eu
cd "$(dirname "$0")/.."
compile="uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate"
$compile pyproject.toml --group build --group try --group test --group bench --group lint -o requirements/dev.lock "$@"
$compile --group fuzz -o requirements/fuzz.lock "$@"
$compile pyproject.toml --group build --group try -c requirements/dev.lock -o requirements/run.lock "$@"
