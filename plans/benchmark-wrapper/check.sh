#!/bin/sh
# Reads each sample with its format and compares what is found with what must be. AWK chooses the awk.
cd "$(dirname "$0")" || exit 1
awk=${AWK:-awk}
failed=0

# check FORMAT SAMPLE: standard input is what must be found, with spaces for tabs and `,` for \034.
check() {
  wanted=$(cat)
  got=$($awk -f formats/units.awk -f formats/json.awk -f "formats/$1.awk" "samples/$2" | tr '\t\034' ' ,' | sed 's/ *$//')
  if [ "$got" = "$wanted" ]; then echo "ok   $1"; return; fi
  printf 'FAIL %s\nwanted:\n%s\ngot:\n%s\n' "$1" "$wanted" "$got"
  failed=1
}

check kpi kpi.txt <<'W'
time_to_x_s 0.5 s phase=search
found 3
loss 2.5e-1 %
W
check criterion criterion.txt <<'W'
time_s 2.6251e-05 s benchmark=fib 20
time_low_s 2.6029e-05 s benchmark=fib 20
time_high_s 2.6505e-05 s benchmark=fib 20
time_s 0.00125 s benchmark=a/very/long/name/of/a/benchmark
time_low_s 0.0012 s benchmark=a/very/long/name/of/a/benchmark
time_high_s 0.0013 s benchmark=a/very/long/name/of/a/benchmark
throughput_Bps 1258291.2 B/s benchmark=a/very/long/name/of/a/benchmark
W
check hyperfine hyperfine.json <<'W'
time_s 0.1011 s command=sleep "0.1"
time_s 0.1013 s command=sleep "0.1"
time_s 0.1018 s command=sleep "0.1"
user_s 0.0005 s command=sleep "0.1"
system_s 0.0011 s command=sleep "0.1"
time_s 1e-3 s command=true
user_s 2.5e-4 s command=true
system_s 0.0 s command=true
W
check wrk wrk.txt <<'W'
latency_mean_s 0.00063591 s
latency_stdev_s 0.00089 s
latency_max_s 0.01292 s
latency_p50_s 0.00025 s
latency_p99_s 0.002 s
requests 22464657 count
socket_errors 3 count
requests_per_s 748868.53 1/s
transfer_Bps 635783086.08 B/s
W
check fio fio.json <<'W'
read_iops 1000.5 1/s job=randread
read_Bps 4096000 B/s job=randread
read_latency_mean_s 1.250025e-05 s job=randread
read_latency_p50_s 1.2e-05 s job=randread
read_latency_p99_s 9e-05 s job=randread
W
check go go.txt <<'W'
time_per_op_s 3.255e-07 s benchmark=BenchmarkFib10-8
memory_per_op_B 16 B benchmark=BenchmarkFib10-8
allocs_per_op 1 count benchmark=BenchmarkFib10-8
time_per_op_s 0.002 s benchmark=BenchmarkCopy/64KiB-8
throughput_Bps 32770000 B/s benchmark=BenchmarkCopy/64KiB-8
rows_s 12.5 rows/s benchmark=BenchmarkCopy/64KiB-8
W
patterns='throughput_MBps[MB/s]~throughput: *;worst[ms]~^worst [a-z]+ =' export patterns
check regex report.txt <<'W'
throughput_MBps 123.5 MB/s
worst 7 ms
W

# Runs run.sh with the parameters $1; its outcome must contain $2.
outcome() {
  outputs=$(mktemp -d)
  got=$(TEST_OUTPUTS_PATH=$outputs TEST_GROUP_ID=all TEST_INSTANCE_PARAMS="$1" sh run.sh 2> "$outputs/stderr")
  case $got in
    *"$2"*) echo "ok   $1" ;;
    *) printf 'FAIL %s\nwanted: %s\ngot: %s\n' "$1" "$2" "$got"; failed=1 ;;
  esac
  lines=$(cat "$outputs/results.out" 2> /dev/null | wc -l)
  rm -r "$outputs"
}

# Whether the last run has left that many lines of KPIs.
recorded() {
  [ "$lines" -eq "$1" ] && return
  echo "FAIL it recorded $lines KPIs and not $1"
  failed=1
}

outcome 'command=cat samples/kpi.txt|format=kpi|repeat=2|warmup=1' '"success_event"'
recorded 10
outcome 'command=echo "{}" > /dev/null|format=kpi|repeat=1|warmup=0' 'no metrics of format kpi'
recorded 0
outcome 'command=exit 3|format=kpi|repeat=1|warmup=0' '`exit 3` ended with 3'
outcome 'command=true|setup=exit 4|format=kpi|repeat=1|warmup=0' 'setup `exit 4` ended with 4'
outcome 'command=true|format=xml|repeat=1|warmup=0' 'parameter format is `xml`; there are kpi'
outcome 'command=true|format=kpi|repeat=many|warmup=0' 'parameter repeat is `many`'
outcome 'command=|format=kpi|repeat=1|warmup=0' 'parameter command is empty'
outcome 'command=true|file=/nowhere/x|format=kpi|repeat=1|warmup=0' 'has not written the file `/nowhere/x`'
outcome 'command=echo kpi a=b|format=kpi|repeat=1|warmup=0' '`kpi a=b` has no number'
outcome 'command=echo nothing|format=regex|patterns=x~y|repeat=1|warmup=0' 'pattern `x~y` matches no line'
outcome 'command=echo no json|format=fio|repeat=1|warmup=0' 'not the output of fio --output-format=json'
exit $failed
