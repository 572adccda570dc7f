# What Criterion prints (Rust): a benchmark's name, here or on the line before, then time: [low estimate high].
/^[^ \t].*time: +\[/ { name = $0; sub(/[ \t]+time: +\[.*/, "", name) }
/^[^ \t]/ && !/time: +\[/ { name = $0; sub(/^Benchmarking /, "", name); sub(/[: \t].*$/, "", name) }
/time: +\[/ {
  values($0)
  tag = "benchmark=" name
  kpi("time_s", seconds(part[3], part[4]), "s", tag)
  kpi("time_low_s", seconds(part[1], part[2]), "s", tag)
  kpi("time_high_s", seconds(part[5], part[6]), "s", tag)
}
/thrpt: +\[/ {
  values($0)
  per = part[4] ~ /elem/ ? "elements_per_s" : "throughput_Bps"
  kpi(per, exact(part[3] * prefix(part[4])), part[4] ~ /elem/ ? "1/s" : "B/s", "benchmark=" name)
}

# The six words between the brackets, into `part`.
function values(line) {
  sub(/^[^[]*\[/, "", line)
  sub(/\].*$/, "", line)
  split(line, part, " ")
}
