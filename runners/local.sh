#!/usr/bin/env bash
# Starts a search on this machine, or continues it where its folder exists: the same line does both.
#
#   runners/local.sh search_spaces/quickstart.yaml --trials 30 --set search.resources.gpus=0.5
#
# Takes what `bpkd-search run` takes. A search that continues keeps the settings it was started with:
# --name, --out, --trials and --set then only say which one is meant.
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

# The folder is found as `run` finds it: --out, else runs/NAME of --name, --set name=, the file, the default.
line=("$@")
space=$1
shift
out="" name="" set_name="" kept=()
while (($#)); do
    case $1 in
        --out | --name | --set | --trials) key=$1 value=${2-} && shift $(($# > 1 ? 2 : 1)) ;;
        --out=* | --name=* | --set=* | --trials=*) key=${1%%=*} value=${1#*=} && shift ;;
        *) kept+=("$1") && shift && continue ;;
    esac
    case $key in
        --out) out=$value ;;
        --name) name=$value ;;
        --set) if [[ $value == name=* ]]; then set_name=${value#name=}; fi ;;
    esac
done
if [[ -z $out ]]; then
    name=${name:-$set_name}
    if [[ -z $name && -r $space ]]; then
        name=$(sed -n "s/^name:[[:space:]]*[\"']\{0,1\}\([A-Za-z0-9._-]*\).*/\1/p" "$space")
    fi
    out=runs/${name:-search}
fi

if [[ -f $out/config.yaml ]]; then
    echo "$out: exists; continuing it with its own settings" >&2
    # Older shells take an empty array for an unset variable.
    exec "$command" resume "$out" ${kept[@]+"${kept[@]}"}
fi
exec "$command" run "${line[@]}"
