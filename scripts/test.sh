#!/usr/bin/env bash
# Lint, types and tests, in an environment of its own: .venv is made on first use and brought up to date after.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh dev
ruff check .
ruff format --check .
mypy
# A process per core, each with one thread: threads of several processes would wait for each other.
# Files in their own order: by their numbers of tests the longest would come last, on one core alone.
OMP_NUM_THREADS=1 pytest --numprocesses auto --dist loadfile --no-loadscope-reorder "$@"
