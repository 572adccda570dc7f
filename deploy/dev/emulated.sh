#!/usr/bin/env bash
# Runs the tests of both data paths in Debian's kernel, which has netem, under emulation.
#
# The virtual machine sees this machine's files; it is as slow as emulation is, and needs no KVM.
# Fails when the kernel does not boot or a test binary does not come to its end.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.cache/bin:$PWD/.cache/virtme/bin:$PATH"

say() { printf 'emulated: %s\n' "$*" >&2; }

if [ "${1:-}" = inside ]; then
  # In the virtual machine; the test binaries are the other arguments.
  shift
  for module in tun veth sch_htb sch_netem nf_tables; do modprobe "$module"; done
  ip link set lo up
  for binary in "$@"; do
    echo "     Running $binary in Linux $(uname -r)"
    "$binary" --include-ignored --test-threads=1 --nocapture || true
  done
  echo "emulated: all binaries have run"
  exit 0
fi

kernel=$(find /boot -name 'vmlinuz-*-amd64' ! -name '*cloud*' | sort -V | tail -n 1)
if [ -z "$kernel" ] || ! command -v vng >/dev/null; then
  say "there is no kernel in /boot or no vng: run deploy/dev/setup.sh test"
  exit 1
fi
# The binaries of `cargo test --workspace`: asked for otherwise they would be built again.
mapfile -t binaries < <(cargo test -q --workspace --no-run --message-format=json |
  sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | grep -E '/deps/(kernel|paths)-[0-9a-f]+$')
if [ ${#binaries[@]} -ne 2 ]; then
  say "the tests \`kernel\` and \`paths\` are not built"
  exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
timeout 1500 vng -r "$kernel" --disable-kvm --cpus 2 --memory 2G -- \
  bash "$PWD/deploy/dev/emulated.sh" inside "${binaries[@]}" 2>&1 | tee "$log" || true
if ! grep -q '^emulated: all binaries have run' "$log"; then
  say "the virtual machine did not come to its end"
  exit 1
fi
[ "$(grep -c '^test result: ok' "$log")" -eq ${#binaries[@]} ]
