# What wrk prints, with --latency or without.
/^ +Latency / && NF >= 4 {
  duration("latency_mean_s", $2)
  duration("latency_stdev_s", $3)
  duration("latency_max_s", $4)
}
/^ +[0-9.]+% / && NF == 2 {
  name = $1
  sub(/%$/, "", name)
  sub(/\.0+$/, "", name)
  gsub(/\./, "_", name)
  duration("latency_p" name "_s", $2)
}
/^Requests\/sec:/ { kpi("requests_per_s", $2, "1/s", "") }
/^Transfer\/sec:/ { split_unit($2); kpi("transfer_Bps", exact(number * prefix(unit "i")), "B/s", "") }
/requests in / { kpi("requests", $1, "count", "") }
/Socket errors:/ {
  gsub(/,/, "")
  kpi("socket_errors", $4 + $6 + $8 + $10, "count", "")
}
/Non-2xx or 3xx responses:/ { kpi("bad_responses", $NF, "count", "") }

function duration(name, text) {
  split_unit(text)
  kpi(name, seconds(number, unit), "s", "")
}

# `635.91us` into `number` and `unit`; of wrk's MB, which are 1024 times 1024 bytes, the unit is M.
function split_unit(text) {
  number = text
  sub(/[^0-9.].*$/, "", number)
  unit = substr(text, length(number) + 1)
  sub(/B$/, "", unit)
}
