#!/bin/sh
# Build the environment of one peer: make_env.sh NAME  ->  .cache/peers/NAME (a venv, ignored by git).
# The requirements are copied in last: a killed run is built anew, and so is one whose requirements have changed.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
name=${1:-}
wanted=$here/$name/requirements.txt
if [ -z "$name" ] || [ ! -f "$wanted" ]; then
    echo "usage: $0 NAME, one of:" >&2
    for file in "$here"/*/requirements.txt; do basename "$(dirname "$file")" >&2; done
    exit 2
fi

root=$(CDPATH='' cd -- "$here/../.." && pwd)
env=$root/.cache/peers/$name
if cmp -s "$wanted" "$env/requirements.txt"; then
    echo "$env"
    exit 0
fi

rm -rf "$env"
mkdir -p "$root/.cache/peers"
"${PYTHON:-python3}" -m venv "$env"
# torch alone and first: resolved beside the others, pip may choose a build that drags in gigabytes of CUDA.
torch=$(grep '^torch==' "$wanted" || true)
if [ -n "$torch" ]; then
    "$env/bin/python" -m pip install --quiet "$torch" >&2
fi
"$env/bin/python" -m pip install --quiet --requirement "$wanted" >&2
"$env/bin/python" -m pip check >&2
cp "$wanted" "$env/requirements.txt" # last: its presence says that the environment is whole
echo "$env"
