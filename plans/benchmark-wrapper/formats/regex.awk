# Patterns of the environment variable `patterns`: name[unit]~expression, separated by `;`. The value is the first
# number after what the expression matches.
BEGIN {
  count = split(ENVIRON["patterns"], patterns, ";")
  for (i = 1; i <= count; i++) {
    at = index(patterns[i], "~")
    if (at < 2) {
      print "pattern `" patterns[i] "` has no name: write name~expression or name[unit]~expression"
      failed = 1
      exit 1
    }
    name[i] = substr(patterns[i], 1, at - 1)
    sub(/^[ \t]+/, "", name[i])
    expression[i] = substr(patterns[i], at + 1)
    unit[i] = ""
    if (match(name[i], /\[[^]]*\]$/)) {
      unit[i] = substr(name[i], RSTART + 1, RLENGTH - 2)
      name[i] = substr(name[i], 1, RSTART - 1)
    }
  }
}
{
  for (i = 1; i <= count; i++) {
    if (!match($0, expression[i])) continue
    rest = substr($0, RSTART + RLENGTH)
    if (match(rest, /[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?/)) {
      kpi(name[i], substr(rest, RSTART, RLENGTH), unit[i], "")
      seen[i] = 1
    }
  }
}
END {
  if (failed) exit 1
  for (i = 1; i <= count; i++) {
    if (seen[i]) continue
    print "pattern `" patterns[i] "` matches no line with a number after it"
    exit 1
  }
}
