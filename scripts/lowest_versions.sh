#!/usr/bin/env bash
# Runs the tests with the lowest versions that pyproject.toml promises to work with.
#
# Usage: scripts/lowest_versions.sh FOLDER [tests/models …]
#
# Makes a virtual environment in FOLDER, installs igll with every requirement held to the series of its lower bound
# (>=2.6 becomes ==2.6.*) and runs pytest there, on the whole suite if no tests are named. pip's wheels of torch for
# CUDA are gigabytes; for the CPU's: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:?give the folder for the environment}
shift
[ -x "$folder/bin/python" ] || python3 -m venv "$folder"
grep -oE '"[A-Za-z0-9._-]+>=[0-9.]+' pyproject.toml | sed -E 's/^"([^>]+)>=(.*)$/\1==\2.*/' \
    | grep -v '^setuptools' >"$folder/lowest.txt"
echo "installing the lowest versions into $folder"
"$folder/bin/python" -m pip install --quiet --constraint "$folder/lowest.txt" --editable \
    ".[fid,figures,geo,baselines]" pytest pytest-xdist hypothesis
"$folder/bin/python" -m pip freeze --exclude-editable
OMP_NUM_THREADS=1 "$folder/bin/python" -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder "$@"
