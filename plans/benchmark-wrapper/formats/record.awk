# Lines of name, value, unit and tags (key=value, separated by \034) as lines of results.out.
BEGIN { FS = "\t" }
{
  line = "{\"ts\":" ts ",\"type\":\"point\",\"name\":" text($1) ",\"measures\":{\"value\":" $2 "}"
  if ($3 != "") line = line ",\"unit\":" text($3)
  if ($4 != "") line = line ",\"tags\":{" tags($4) "}"
  print line "}"
}

function tags(all,   parts, count, i, at, out) {
  count = split(all, parts, "\034")
  for (i = 1; i <= count; i++) {
    at = index(parts[i], "=")
    out = out (i > 1 ? "," : "") text(substr(parts[i], 1, at - 1)) ":" text(substr(parts[i], at + 1))
  }
  return out
}

function text(value) {
  gsub(/\\/, "\\\\", value)
  gsub(/"/, "\\\"", value)
  gsub(/[\001-\037]/, " ", value)
  return "\"" value "\""
}
