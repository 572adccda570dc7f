# Reads JSON: `flatten(text)` fills `json[path]` for every text, number and word; a path is keys and numbers of
# elements joined by \035. `json_length[path]` says how many elements a list has. False when it is not JSON.

function flatten(text) {
  json_rest = text
  json_failed = 0
  json_value("")
  json_skip()
  return !json_failed && json_rest == ""
}

function json_skip() {
  sub(/^[ \t\r\n]+/, "", json_rest)
}

function json_value(path,   first) {
  json_skip()
  first = substr(json_rest, 1, 1)
  if (first == "{") { json_object(path); return }
  if (first == "[") { json_list(path); return }
  if (first == "\"") { json[path] = json_text(); return }
  if (match(json_rest, /^(-?[0-9][-+.eE0-9]*|true|false|null)/)) {
    json[path] = substr(json_rest, 1, RLENGTH)
    json_rest = substr(json_rest, RLENGTH + 1)
    return
  }
  json_failed = 1
}

function json_object(path,   key) {
  json_rest = substr(json_rest, 2)
  json_skip()
  if (json_end("}")) return
  while (!json_failed) {
    json_skip()
    key = json_text()
    json_skip()
    if (!json_end(":")) { json_failed = 1; return }
    json_value(path == "" ? key : path "\035" key)
    json_skip()
    if (json_end("}")) return
    if (!json_end(",")) json_failed = 1
  }
}

function json_list(path,   count) {
  count = 0
  json_rest = substr(json_rest, 2)
  json_skip()
  json_length[path] = 0
  if (json_end("]")) return
  while (!json_failed) {
    json_value(path == "" ? count : path "\035" count)
    json_length[path] = ++count
    json_skip()
    if (json_end("]")) return
    if (!json_end(",")) json_failed = 1
  }
}

# Takes `mark` away if it is next.
function json_end(mark) {
  if (substr(json_rest, 1, 1) != mark) return 0
  json_rest = substr(json_rest, 2)
  return 1
}

function json_text(   text) {
  if (!match(json_rest, /^"([^"\\]|\\.)*"/)) { json_failed = 1; return "" }
  text = substr(json_rest, 2, RLENGTH - 2)
  json_rest = substr(json_rest, RLENGTH + 1)
  gsub(/\\"/, "\"", text)
  gsub(/\\\//, "/", text)
  gsub(/\\[nrt]/, " ", text)
  gsub(/\\\\/, "\\", text)
  return text
}
