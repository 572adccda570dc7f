#!/bin/sh
# Every instance measures how long the next one takes to answer, over TCP and with busybox.
set -eu

. "$(dirname "$0")/lib.sh"

rounds=$(param rounds)
next=$(( (GROUNDSWELL_INSTANCE + 1) % TEST_INSTANCE_COUNT ))

# Sends one line back to each who connects.
busybox nc -ll -p 7000 -e busybox head -n 1 &
answering=$!

# The others may begin later.
wait_for "$(address "$next")" 7000

done=0
while [ "$done" -lt "$rounds" ]; do
    begun=$(date +%s%N)
    said=$(echo ping | busybox nc -w 10 "$(address "$next")" 7000)
    [ "$said" = ping ] || fail "instance $next said '$said'"
    record rtt_s "$(seconds_since "$begun")" s
    done=$((done + 1))
done

# There is no sync in a shell script: whoever is done answers a while longer.
sleep "$(param linger)"
kill "$answering"
succeed
