# A benchmark of nothing in particular: how long a thousand rounds of a shell's loop take.
began=$(date +%s%N)
round=0
while [ "$round" -lt 1000 ]; do round=$((round + 1)); done
ended=$(date +%s%N)
echo "some text that is no metric"
echo "kpi loop_us=$(((ended - began) / 1000)) us rounds=1000"
