# kpi <name>=<value> [unit] [tag=value ...]
$1 == "kpi" {
  at = index($2, "=")
  if (at < 2) next
  unit = ""
  tags = ""
  for (i = 3; i <= NF; i++) {
    if (index($i, "=")) tags = tags (tags == "" ? "" : "\034") $i
    else unit = $i
  }
  if (!kpi(substr($2, 1, at - 1), substr($2, at + 1), unit, tags)) {
    print "`" $0 "` has no number after the name"
    exit 1
  }
}
