#!/usr/bin/env bash
# session.sh BASE ADAPTER: is the adapter fit, what would a merge do, and is the merge what it claims to be?
set -euo pipefail
base=$1 adapter=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

peft-tool validate "$adapter"
peft-tool inspect "$adapter" --base "$base" --report "$work/adapter.html"
peft-tool merge "$base" "$adapter" "$work/merged" --dry-run
peft-tool merge "$base" "$adapter" "$work/merged"
peft-tool verify "$base" "$adapter" "$work/merged"

# An answer that is no is exit code 1: half of the change is another model.
if peft-tool verify "$base" "$adapter:0.5" "$work/merged" >/dev/null 2>&1; then exit 1; fi

peft-tool unmerge "$work/merged" "$adapter" "$work/restored"
peft-tool diff "$base" "$work/restored" --tolerance 0.01
