#!/bin/sh
# Lives for so many seconds and writes down each of its lives and each of its addresses. Files stay when an instance
# is killed and started again, so it knows when its first life began.
set -eu
out="$TEST_OUTPUTS_PATH"
seconds="${TEST_INSTANCE_PARAMS##*seconds=}"
seconds="${seconds%%|*}"
now() { cut -d. -f1 /proc/uptime; }

echo "life ${GROUNDSWELL_INCARNATION:-0}"
echo "${GROUNDSWELL_INCARNATION:-0}" >> "$out/lives.txt"
[ -e "$out/began" ] || now > "$out/began"
began="$(cat "$out/began")"
last=""
while [ $(($(now) - began)) -lt "$seconds" ]; do
    # Its own address is in the table of local ones, as the host it is.
    address="$(awk '/32 host/ { print before } { before = $2 }' /proc/net/fib_trie | grep -v '^127' | sort -u | tr '\n' ' ')"
    if [ "$address" != "$last" ]; then
        echo "$address" >> "$out/addresses.txt"
        last="$address"
    fi
    sleep 0.2
done
echo '{"event":{"success_event":{}}}'
