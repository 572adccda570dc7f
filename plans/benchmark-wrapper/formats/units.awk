# What all formats share: a KPI's line, numbers, and quantities in base units.

# Prints a KPI; `tags` are key=value pairs separated by \034.
function kpi(name, value, unit, tags) {
  if (!is_number(value)) return 0
  sub(/^\+/, "", value)
  printf "%s\t%s\t%s\t%s\n", name, json_number(value), unit, tags
  return 1
}

function is_number(value) {
  return value ~ /^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$/
}

# JSON wants a digit on both sides of the point and no zeros in front.
function json_number(value,   sign) {
  sign = ""
  if (substr(value, 1, 1) == "-") { sign = "-"; value = substr(value, 2) }
  sub(/^0+/, "", value)
  if (value !~ /^[0-9]/) value = "0" value
  if (value ~ /\.$/) value = value "0"
  if (value ~ /\.[eE]/) sub(/\./, ".0", value)
  return sign value
}

# `number` of a unit of time in seconds.
function seconds(number, unit) {
  if (unit == "ns") return exact(number * 1e-9)
  if (unit == "us" || unit == "µs" || unit == "μs") return exact(number * 1e-6)
  if (unit == "ms") return exact(number * 1e-3)
  if (unit == "m") return exact(number * 60)
  if (unit == "h") return exact(number * 3600)
  return exact(number)
}

# By how much a prefix such as K, Ki or M multiplies.
function prefix(unit) {
  if (unit ~ /^Ki/) return 1024
  if (unit ~ /^Mi/) return 1048576
  if (unit ~ /^Gi/) return 1073741824
  if (unit ~ /^Ti/) return 1099511627776
  if (unit ~ /^[kK]/) return 1e3
  if (unit ~ /^M/) return 1e6
  if (unit ~ /^G/) return 1e9
  if (unit ~ /^T/) return 1e12
  return 1
}

function exact(number) {
  return sprintf("%.12g", number)
}
