# go test -bench: BenchmarkName-8  1000  325 ns/op  16 B/op  1 allocs/op  and what b.ReportMetric adds.
/^Benchmark/ && NF >= 4 && $2 ~ /^[0-9]+$/ {
  tag = "benchmark=" $1
  for (i = 3; i < NF; i += 2) measure($i, $(i + 1))
}

function measure(value, unit,   name) {
  if (unit == "ns/op") kpi("time_per_op_s", seconds(value, "ns"), "s", tag)
  else if (unit == "B/op") kpi("memory_per_op_B", value, "B", tag)
  else if (unit == "allocs/op") kpi("allocs_per_op", value, "count", tag)
  else if (unit == "MB/s") kpi("throughput_Bps", exact(value * 1e6), "B/s", tag)
  else {
    name = unit
    gsub(/[^A-Za-z0-9]+/, "_", name)
    kpi(name, value, unit, tag)
  }
}
