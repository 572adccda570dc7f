#!/bin/sh
# Clients fetch a page from the first instance again and again, with busybox.
set -eu

. "$(dirname "$0")/lib.sh"

end=$(( $(date +%s) + $(param run_for) ))
if [ "$TEST_GROUP_ID" = servers ]; then
    mkdir "$TEST_TEMP_PATH/pages"
    head -c "$(param size)" /dev/zero >"$TEST_TEMP_PATH/pages/page"
    busybox httpd -f -p 8000 -h "$TEST_TEMP_PATH/pages" &
    serving=$!
    # There is no sync in a shell script: the server serves a while longer than anybody asks.
    sleep $(( $(param run_for) + $(param linger) ))
    kill "$serving"
    succeed
fi

# The first group's first instance is the server.
server=$(address 0)
wait_for "$server" 8000
fetched=0
while [ "$(date +%s)" -lt "$end" ]; do
    begun=$(date +%s%N)
    busybox wget -q -O - "http://$server:8000/page" >/dev/null || fail "fetch $fetched failed"
    record latency_s "$(seconds_since "$begun")" s
    fetched=$((fetched + 1))
done
record fetched "$fetched" count
[ "$fetched" -gt 0 ] || fail "nothing was fetched"
succeed
