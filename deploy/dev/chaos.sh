#!/usr/bin/env bash
# Runs the chaos tests one after the other, prints what came of each fault, and ends with the lines of cargo test.
set -uo pipefail
cd "$(dirname "$0")/../.."

export PATH="$PWD/.cache/bin:$PATH"
rows=target/tmp/chaos
rm -rf "$rows"

cargo test --workspace --test e2e -j "$(nproc)" -- --include-ignored --test-threads=1 chaos::
status=$?

echo "| fault | came of it | longest round |"
echo "|---|---|---|"
cat "$rows"/*.md 2>/dev/null
exit "$status"
