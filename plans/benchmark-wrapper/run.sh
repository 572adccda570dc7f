#!/bin/sh
# Runs a command and turns what it prints into KPIs. The manifest says that the outcome on stdout counts; the
# command's own stdout is kept in a file, so that nothing it prints can be taken for one.
set -u
plan=$(cd "$(dirname "$0")" && pwd)
results="$TEST_OUTPUTS_PATH/results.out"

# The value of a parameter: TEST_INSTANCE_PARAMS is key=value pairs joined by `|`.
param() {
  printf '%s' "$TEST_INSTANCE_PARAMS" | awk -v key="$1=" 'BEGIN { RS = "|" } index($0, key) == 1 { printf "%s", substr($0, length(key) + 1) }'
}

# The argument as the inside of a JSON text.
quoted() {
  printf '%s' "$1" | tr '\n\t\r' '   ' | sed 's/\\/\\\\/g; s/"/\\"/g'
}

fail() {
  printf '{"event":{"failure_event":{"group":"%s","error":"%s"}}}\n' "$TEST_GROUP_ID" "$(quoted "$1")"
  exit 1
}

# Nanoseconds since 1970; where `date` has no %N, whole seconds of them.
now() {
  case $(date +%N) in
    [0-9]*) date +%s%N ;;
    *) echo "$(date +%s)000000000" ;;
  esac
}

# KPI lines as the formats print them (name, value, unit, tags; separated by tabs) as lines of results.out.
record() {
  awk -v ts="$(now)" -f "$plan/formats/record.awk"
}

# Checks a parameter that is a count.
count() {
  case $2 in
    '' | *[!0-9]*) fail "parameter $1 is \`$2\`; it must be a whole number" ;;
  esac
}

command=$(param command)
setup=$(param setup)
format=$(param format)
file=$(param file)
repeat=$(param repeat)
warmup=$(param warmup)
patterns=$(param patterns)
export patterns
reader="$plan/formats/$format.awk"

[ -n "$command" ] || fail "parameter command is empty; it says what to measure"
count repeat "$repeat"
count warmup "$warmup"
[ "$repeat" -ge 1 ] || fail "parameter repeat is \`0\`; nothing would be measured"
case $format in
  kpi | regex | criterion | hyperfine | wrk | fio | go) ;;
  *) fail "parameter format is \`$format\`; there are kpi, regex, criterion, hyperfine, wrk, fio and go" ;;
esac
if [ "$format" = regex ] && [ -z "$patterns" ]; then
  fail "parameter patterns is empty; format regex needs name[unit]~expression"
fi

cd "$plan" || fail "cannot enter $plan"
if [ -n "$setup" ]; then
  sh -c "$setup" > "$TEST_OUTPUTS_PATH/setup.out" || fail "setup \`$setup\` ended with $?; see setup.out and stderr"
fi

run=0
while [ "$run" -lt "$warmup" ]; do
  sh -c "$command" > /dev/null || fail "warm-up of \`$command\` ended with $?; see stderr"
  run=$((run + 1))
done

run=0
while [ "$run" -lt "$repeat" ]; do
  output="$TEST_OUTPUTS_PATH/command.$run.out"
  metrics="$TEST_OUTPUTS_PATH/metrics.$run.tsv"
  began=$(now)
  sh -c "$command" > "$output" || fail "\`$command\` ended with $?; see command.$run.out and stderr"
  ended=$(now)
  from=${file:-$output}
  [ -r "$from" ] || fail "\`$command\` has not written the file \`$from\`, which parameter file names"
  awk -f "$plan/formats/units.awk" -f "$plan/formats/json.awk" -f "$reader" "$from" > "$metrics" \
    || fail "the output of \`$command\` is not what format $format reads: $(tail -n 1 "$metrics")"
  found=$(awk 'END { print NR }' "$metrics")
  [ "$found" -gt 0 ] || fail "no metrics of format $format in the output of \`$command\`; see command.$run.out"
  {
    cat "$metrics"
    awk -v b="$began" -v e="$ended" 'BEGIN { printf "command_s\t%.6f\ts\t\n", (e - b) / 1e9 }'
    printf 'metrics\t%s\tcount\t\n' "$found"
  } | record >> "$results" || fail "cannot write $results"
  run=$((run + 1))
done
printf '{"event":{"success_event":{"group":"%s"}}}\n' "$TEST_GROUP_ID"
