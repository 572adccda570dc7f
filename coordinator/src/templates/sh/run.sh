#!/bin/sh
# One instance of the plan. The platform says who it is in TEST_* variables and keeps what it writes.
set -eu

# TEST_INSTANCE_PARAMS holds the case's parameters: name=value, separated by |.
param() {
    printf '%s' "$TEST_INSTANCE_PARAMS" | tr '|' '\n' | sed -n "s/^$1=//p"
}

case "$TEST_CASE" in
hello)
    echo "$(param greeting), from an instance of $TEST_GROUP_ID"
    echo "I am one of $TEST_INSTANCE_COUNT" >"$TEST_OUTPUTS_PATH/hello.txt"
    ;;
*)
    echo "unknown case $TEST_CASE" >&2
    exit 2
    ;;
esac

# An instance has succeeded when it says so. This is the line that the SDKs print.
printf '{"ts":%s000000000,"event":{"success_event":{"groups":"%s"}}}\n' "$(date +%s)" "$TEST_GROUP_ID"
