# shellcheck shell=bash disable=SC2154
# Runs the steps of gpu_check.sh one after another and writes their report; sourced by it.

suffix=""
[ "$PART" = all ] || suffix="-$PART"
REPORT="$OUT/report$suffix"
LOGS="$OUT/logs$suffix.txt"
: >"$LOGS"
number=0

# step NAME LEAST MOST TITLE
step() {
  local name="$1" least="$2" most="$3" title="$4" left code=0 folder began
  [ -z "$ONLY" ] || [ "$name" = facts ] || [[ ",$ONLY," = *",$name,"* ]] || return 0
  number=$((number + 1))
  folder="$WORK/steps/$(printf '%02d' "$number")-$name"
  mkdir -p "$folder"
  printf '%s\n' "$title" >"$folder/title"
  : >"$folder/details"
  left=$((TIME_LIMIT - SECONDS - 8)) # the report's own time
  if [ -f "$WORK/stop" ]; then
    leave_out "$folder" "there is no GPU to check (step facts)"
    return 0
  elif [ "$left" -lt "$least" ]; then
    leave_out "$folder" "not enough time: $left s are left of $TIME_LIMIT (--time-limit)"
    return 0
  fi
  ! $REHEARSAL || most=$((most * 10))
  [ "$most" -le "$left" ] || most="$left"
  printf '%4s s  %-14s %s\n' "$SECONDS" "$name" "$title"
  began="$(date +%s.%N)"
  STEP="$folder" timeout --kill-after=5 "$most" "$BASH" "$LIBRARY/step.sh" "$name" >"$folder/log" 2>&1 </dev/null || code=$?
  awk -v a="$began" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f\n", b - a }' >"$folder/seconds"
  case "$code" in
    0) printf 'passed\n' ;;
    77) printf 'skipped\n' ;;
    124 | 137) printf 'failed\n' && printf 'did not end within %s s\n' "$most" >>"$folder/details" ;;
    *) printf 'failed\n' && printf 'exit code %s\n' "$code" >>"$folder/details" ;;
  esac >"$folder/verdict"
  printf '        %s %s\n' "$(cat "$folder/verdict")" "$(paste -s -d ';' "$folder/details" | cut -c 1-240)"
  keep_log "$folder" "$name"
  write_report
}

# leave_out FOLDER WHY
leave_out() {
  printf 'skipped\n' >"$1/verdict"
  printf '%s\n' "$2" >>"$1/details"
  printf '0\n' >"$1/seconds"
  write_report
}

# The end of a step's log, in the one file of all logs.
keep_log() {
  {
    printf '\n======== %s: %s\n' "$2" "$(cat "$1/title")"
    tail -c 400000 "$1/log"
  } >>"$LOGS"
}

verdicts() { cat "$WORK"/steps/*/verdict 2>/dev/null || true; }
count() { verdicts | grep -c "^$1\$" || true; }

# json_text: standard input as the inside of a JSON string, on one line.
json_text() { tr -d '\000-\010\013\014\016-\037' | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' | awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }'; }

# pairs FILE: lines "key<tab>value" as the members of a JSON object; numbers stay numbers.
pairs() {
  local key value comma=""
  [ -f "$1" ] || return 0
  while IFS=$'\t' read -r key value; do
    if [[ "$value" =~ ^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$ ]]; then
      printf '%s"%s": %s' "$comma" "$key" "$value"
    else
      printf '%s"%s": "%s"' "$comma" "$key" "$(printf '%s' "$value" | json_text)"
    fi
    comma=", "
  done <"$1"
}

write_json() {
  local folder comma="" base
  printf '{\n  "part": "%s",\n  "rehearsal": %s,\n  "started": "%s",\n  "seconds": %s,\n' "$PART" "$REHEARSAL" "$STARTED" "$SECONDS"
  printf '  "passed": %s,\n  "failed": %s,\n  "skipped": %s,\n  "facts": {%s},\n  "steps": [' \
    "$(count passed)" "$(count failed)" "$(count skipped)" "$(pairs "$WORK/facts")"
  for folder in "$WORK"/steps/*/; do
    base="$(basename "$folder")"
    [ -f "$folder/verdict" ] || continue
    printf '%s\n    {"name": "%s", "verdict": "%s", "seconds": %s, "details": "%s", "values": {%s}}' "$comma" "${base#*-}" \
      "$(cat "$folder/verdict")" "$(cat "$folder/seconds")" "$(json_text <"$folder/details")" "$(pairs "$folder/values")"
    comma=","
  done
  printf '\n  ]\n}\n'
}

write_markdown() {
  local folder base
  printf '# gpu_check: %s passed, %s failed, %s skipped\n\n' "$(count passed)" "$(count failed)" "$(count skipped)"
  ! $REHEARSAL || printf '**A rehearsal with the emulated CUDA backend: no GPU was used, and no figure means anything.**\n\n'
  printf '%s, part %s, %s s of %s\n\n' "$STARTED" "$PART" "$SECONDS" "$TIME_LIMIT"
  if [ -f "$WORK/facts" ]; then
    printf '| | |\n|---|---|\n'
    awk -F '\t' '{ gsub(/\|/, "\\|"); printf "| %s | %s |\n", $1, $2 }' "$WORK/facts"
    printf '\n'
  fi
  printf '| step | verdict | s | what was seen |\n|---|---|---|---|\n'
  for folder in "$WORK"/steps/*/; do
    base="$(basename "$folder")"
    [ -f "$folder/verdict" ] || continue
    printf '| %s | %s | %s | %s |\n' "${base#*-}" "$(sed 's/failed/**FAILED**/' "$folder/verdict")" "$(cat "$folder/seconds")" \
      "$(sed -e 's/|/\\|/g' "$folder/details" | awk 'NR > 1 { printf "<br>" } { printf "%s", $0 }')"
  done
  for folder in "$WORK"/steps/*/; do
    [ -s "$folder/table" ] || continue
    printf '\n## %s\n\n```\n%s\n```\n' "$(cat "$folder/title")" "$(cat "$folder/table")"
  done
  for folder in "$WORK"/steps/*/; do
    grep -qx failed "$folder/verdict" 2>/dev/null || continue
    base="$(basename "$folder")"
    printf '\n## Failed: %s. The end of its log\n\n```\n%s\n```\n' "${base#*-}" "$(tail -n 40 "$folder/log" | cut -c 1-400)"
  done
}

write_report() {
  write_json >"$REPORT.json.new" && mv "$REPORT.json.new" "$REPORT.json"
  write_markdown >"$REPORT.md.new" && mv "$REPORT.md.new" "$REPORT.md"
}

finish() {
  local code=$?
  trap - EXIT
  write_report
  printf '\n%s passed, %s failed, %s skipped in %s s; %s.md\n' "$(count passed)" "$(count failed)" "$(count skipped)" "$SECONDS" "$REPORT"
  rm -rf "$WORK"
  [ -z "${place:-}" ] || rm -rf "$place"
  exit "$code"
}
