# What the script needs of a platform. The platform says who the instance is in TEST_* variables, and keeps what it
# writes to $TEST_OUTPUTS_PATH.

# TEST_INSTANCE_PARAMS holds the case's parameters: name=value, separated by |.
param() {
    printf '%s' "$TEST_INSTANCE_PARAMS" | tr '|' '\n' | sed -n "s/^$1=//p"
}

# The address of an instance, by its number: the first has the third address of the run's network.
address() {
    network=${TEST_SUBNET%%/*}
    number=$(( $1 + 2 ))
    echo "${network%.*.*}.$(( number / 256 )).$(( number % 256 ))"
}

# Waits until somebody listens.
wait_for() {
    tries=0
    until busybox nc -w 1 "$1" "$2" </dev/null >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || fail "nobody listens at $1:$2"
        sleep 0.2
    done
}

seconds_since() {
    awk -v ns=$(( $(date +%s%N) - $1 )) 'BEGIN { printf "%.6f", ns / 1e9 }'
}

# A KPI: name, value, unit.
record() {
    printf '{"ts":%s,"type":"point","name":"%s","measures":{"value":%s},"unit":"%s"}\n' \
        "$(date +%s%N)" "$1" "$2" "$3" >>"$TEST_OUTPUTS_PATH/results.out"
}

# An instance has succeeded, or failed, when it says so.
succeed() {
    printf '{"ts":%s,"event":{"success_event":{"group":"%s"}}}\n' "$(date +%s%N)" "$TEST_GROUP_ID"
    exit 0
}

fail() {
    printf '{"ts":%s,"event":{"failure_event":{"group":"%s","error":"%s"}}}\n' \
        "$(date +%s%N)" "$TEST_GROUP_ID" "$1"
    exit 1
}
