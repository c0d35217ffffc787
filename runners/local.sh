#!/usr/bin/env bash
# Starts a search on this machine, or resumes it if its folder exists: the same line does both.
#
#   runners/local.sh quickstart --trials 30 --set search.resources.gpus=0.5
#
# Takes what `bpkd-search run` takes. SPACE is a file or a name of `bpkd-search spaces`.
# A search that is resumed keeps the settings it was started with.
set -euo pipefail

if (($# == 0)) || [[ $1 == -* ]]; then
    echo "usage: $0 SPACE [options of bpkd-search run]" >&2
    exit 2
fi

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
command=$root/.venv/bin/bpkd-search
if [[ ! -x $command ]] && ! command=$(command -v bpkd-search); then
    echo "error: no bpkd-search: neither $root/.venv/bin/bpkd-search nor one on PATH" >&2
    exit 127
fi
exec "$command" run "$@" --resume
