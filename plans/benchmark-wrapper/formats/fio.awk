# fio --output-format=json: each job's rate and latency, for the directions in which it did anything.
{ all = all $0 "\n" }
END {
  start = index(all, "{")
  if (!flatten(substr(all, start)) || !("jobs" in json_length)) {
    print "it is not the output of fio --output-format=json"
    exit 1
  }
  split("read write trim", directions, " ")
  for (i = 0; i < json_length["jobs"]; i++) for (d = 1; d <= 3; d++) direction(i, directions[d])
}

function direction(i, name,   at, tag) {
  at = "jobs\035" i "\035" name "\035"
  if (json[at "total_ios"] + 0 == 0) return
  tag = "job=" json["jobs\035" i "\035jobname"]
  kpi(name "_iops", json[at "iops"], "1/s", tag)
  kpi(name "_Bps", json[at "bw_bytes"], "B/s", tag)
  kpi(name "_latency_mean_s", seconds(json[at "lat_ns\035mean"], "ns"), "s", tag)
  percentile(at, name, "50.000000", "p50", tag)
  percentile(at, name, "99.000000", "p99", tag)
}

function percentile(at, name, key, short, tag) {
  key = at "clat_ns\035percentile\035" key
  if (key in json) kpi(name "_latency_" short "_s", seconds(json[key], "ns"), "s", tag)
}
