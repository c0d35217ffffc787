#!/usr/bin/env bash
# Starts a search on this machine, or continues it where its folder exists: the same line does both.
#
#   runners/local.sh search_spaces/quickstart.yaml --trials 30 --set search.resources.gpus=0.5
#
# Takes what `bpkd-search run` takes. A search that continues keeps the settings it was started with.
set -euo pipefail

if (($# == 0)) || [[ $1 == -* ]]; then
    echo "usage: $0 SPACE.yaml [options of bpkd-search run]" >&2
    exit 2
fi

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
command=$root/.venv/bin/bpkd-search
if [[ ! -x $command ]] && ! command=$(command -v bpkd-search); then
    echo "error: no bpkd-search: neither $root/.venv/bin/bpkd-search nor one on PATH" >&2
    exit 127
fi
exec "$command" run "$@" --resume
