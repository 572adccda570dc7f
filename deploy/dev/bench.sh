#!/usr/bin/env bash
# All benchmarks, each beside its peer in the same run; Markdown on stdout.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.cache/bin:$PATH"

echo "## Machine"
echo
echo "$(nproc) cpus, $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r), $(rustc --version), load $(cut -d' ' -f1 /proc/loadavg)"
echo

echo "## Sync"
echo
cargo bench -q -p groundswell-worker --bench sync
echo

echo "## Start"
echo
cargo bench -q -p groundswell-worker --bench start
echo

echo "## Network"
echo
cargo bench -q -p groundswell-worker --bench network
echo

echo "## Placement"
echo
cargo bench -q -p groundswell-coordinator --bench placement
echo

echo "## Cluster"
echo
cargo build -q --release -p groundswell-worker
cargo bench -q -p groundswell-coordinator --bench cluster
echo

echo "## Loop: \`coordinator submit\` of two instances, built before, from command to exit"
echo
cargo build -q --release -p groundswell-coordinator
coordinator=target/release/coordinator
GROUNDSWELL_HOME=$(mktemp -d)
export GROUNDSWELL_HOME
mkdir -p target/tmp/cache
ln -s "$PWD/target/tmp/cache" "$GROUNDSWELL_HOME/cache"
trap 'rm -rf "$GROUNDSWELL_HOME"' EXIT
loop() { # loop NAME ARGUMENTS...: one run to build, then the median of nine
  local name=$1 times=() start
  shift
  "$coordinator" submit -q "$@" >/dev/null
  for _ in 1 2 3 4 5 6 7 8 9; do
    start=$(date +%s%N)
    "$coordinator" submit -q "$@" >/dev/null
    times+=($((($(date +%s%N) - start) / 1000000)))
  done
  echo "| $name | $(printf '%s\n' "${times[@]}" | sort -n | sed -n 5p) ms |"
}
echo "| plan | median |"
echo "|---|---:|"
loop "placebo ok" plans/placebo/_compositions/ok.toml
loop "ping-pong, unshaped" --plan plans/ping-pong --case ping-pong --instances 2 --param latency_ms=0 --param second_latency_ms=0
loop "ping-pong, 100 ms then 10 ms" plans/ping-pong/_compositions/pair.toml
