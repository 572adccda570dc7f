# hyperfine --export-json: each measured time of each command, and its user and system time.
{ all = all $0 "\n" }
END {
  if (!flatten(all) || !("results" in json_length)) {
    print "it is not the JSON of hyperfine --export-json"
    exit 1
  }
  for (i = 0; i < json_length["results"]; i++) {
    at = "results\035" i "\035"
    tag = "command=" json[at "command"]
    for (j = 0; j < json_length[at "times"]; j++) kpi("time_s", json[at "times\035" j], "s", tag)
    if (!((at "times") in json_length)) kpi("time_s", json[at "mean"], "s", tag)
    kpi("user_s", json[at "user"], "s", tag)
    kpi("system_s", json[at "system"], "s", tag)
  }
}
