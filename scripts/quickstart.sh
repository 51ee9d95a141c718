#!/usr/bin/env bash
# Trains a small IGLL, measures it and fills some images. Usage: bash scripts/quickstart.sh [FOLDER_OF_IMAGES]
#
# Without a folder it uses embedded synthetic scenes. Results: runs/quickstart/. Safe to run again: an interrupted
# training goes on, a finished one is evaluated again. Settings for all steps may follow the folder, such as
# train.max_steps=1000.
set -euo pipefail
if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then
    sed -n 's/^# //p' "${BASH_SOURCE[0]}"
    exit 0
fi
folder=""
if [ $# -gt 0 ] && [[ "$1" != *=* ]]; then
    if [ ! -d "$1" ]; then
        echo "error: $1: no such folder; give a folder of images, or nothing for embedded scenes" >&2
        exit 2
    fi
    folder="$(cd "$1" && pwd)"
    shift
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh figures
exec python scripts/quickstart.py "$folder" "$@"
