#!/usr/bin/env bash
# Runs all tests with the services they need, those of the data network once more in a kernel with netem, then prints one closing line: `N passed, N failed, N skipped`.
# A Docker engine is started when none answers, and stopped again.
set -uo pipefail
cd "$(dirname "$0")/../.."

export PATH="$PWD/.cache/bin:$PATH"
log=$(mktemp)
dockerd_pid=
compiling=

stop() {
  kill "$compiling" 2>/dev/null
  if [ -n "$dockerd_pid" ]; then
    kill "$dockerd_pid" 2>/dev/null
    wait "$dockerd_pid" 2>/dev/null
  fi
  rm -f "$log" "$log.plans"
}
trap stop EXIT

if ! docker version >/dev/null 2>&1; then
  echo "test: starting a Docker engine for the Docker tests" >&2
  dockerd >/tmp/groundswell-dockerd.log 2>&1 &
  dockerd_pid=$!
  for _ in $(seq 60); do
    docker version >/dev/null 2>&1 && break
    sleep 1
  done
  docker version >/dev/null 2>&1 || {
    echo "test: the Docker engine did not come up, its log ends:" >&2
    tail -5 /tmp/groundswell-dockerd.log >&2
  }
fi

# The plans are a workspace of their own. They compile while other tests run, with the time that these leave over, and
# where the runs of the tests `plans` build them, so that what a plan depends on is compiled once.
plan_tests() {
  CARGO_TARGET_DIR="$PWD/target/tmp/cache/cargo/target" cargo test --manifest-path "$1" --no-fail-fast -j "$(nproc)" "${@:2}"
}
plans=$(grep -l '^version.workspace' plans/*/Cargo.toml plans/interop/book/Cargo.toml)

cargo test --workspace --no-run -j "$(nproc)" || exit 1
# Now, since Cargo keeps others waiting while it fetches.
cargo fetch --manifest-path plans/Cargo.toml
(
  chrt --idle --pid 0 "$BASHPID"
  for plan in $plans; do plan_tests "$plan" --no-run; done
) >"$log.plans" 2>&1 &
compiling=$!
# Whole runs wait most of the time, so more of them go on at once than of those that measure.
others=()
for file in */tests/*.rs */tests/*/main.rs; do
  name=${file#*/tests/}
  name=${name%/main.rs}
  [ "$name" = e2e.rs ] || others+=(--test "${name%.rs}")
done
status=0
core() { # core THREADS ARGUMENTS
  cargo test --workspace --no-fail-fast -j "$(nproc)" "${@:2}" -- --test-threads="$1" 2>&1 | tee -a "$log"
  if [ "${PIPESTATUS[0]}" -ne 0 ]; then status=1; fi
}
core 3 --test e2e
core 2 --lib --bins "${others[@]}"

# The web page: what it is made of, and each page in a browser.
(cd coordinator/web && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && npm run --silent check &&
  npm test --silent && npm run --silent e2e) 2>&1 | tee -a "$log"
if [ "${PIPESTATUS[0]}" -ne 0 ]; then status=1; fi

wait $compiling
for plan in $plans; do
  plan_tests "$plan" 2>&1 | tee -a "$log"
  if [ "${PIPESTATUS[0]}" -ne 0 ]; then status=1; fi
done

# What takes netem runs in Debian's kernel under emulation.
deploy/dev/emulated.sh 2>&1 | tee -a "$log"
emulated=${PIPESTATUS[0]}
if [ "$status" -eq 0 ]; then status=$emulated; fi

awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     /^(#|ℹ) pass / { passed += $3 }
     /^(#|ℹ) fail / { failed += $3 }
     /^(#|ℹ) skipped / { ignored += $3 }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored }' "$log"
exit "$status"
