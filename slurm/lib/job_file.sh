# shellcheck shell=bash
# Where a job keeps its checkpoint, and how far that is.

# yaml_value FILE SECTION KEY: a plain value of a job file, in block style or as `section: {key: value}`.
yaml_value() {
  awk -v section="$2" -v key="$3" '
    function print_value(text) {
      sub(/^[ \t]+/, "", text)
      if (text ~ /^"/) { sub(/^"/, "", text); sub(/".*$/, "", text) }
      else if (text ~ /^\047/) { sub(/^\047/, "", text); sub(/\047.*$/, "", text) }
      else { sub(/[ \t]+#.*$/, "", text); sub(/[ \t]+$/, "", text) }
      print text
      exit
    }
    /^[ \t]*(#|$)/ { next }
    /^[^ \t]/ { inside = $0 ~ "^" section "[ \t]*:" ; rest = $0; sub(/^[^:]*:/, "", rest) }
    inside && !/^[^ \t]/ { rest = $0 }
    !inside { next }
    {
      sub(/^[ \t]*\{/, ",", rest)
      if (rest ~ /^,/ || flow) {
        flow = 1
        if (match(rest, "[,][ \t]*" key "[ \t]*:")) {
          rest = substr(rest, RSTART + RLENGTH)
          sub(/^[ \t]+/, "", rest)
          if (rest !~ /^["\047]/) sub(/[ \t]*[,}].*$/, "", rest)
          print_value(rest)
        }
        if (rest ~ /}/) flow = 0
      } else if (match(rest, "^[ \t]+" key "[ \t]*:")) {
        print_value(substr(rest, RSTART + RLENGTH))
      }
    }' "$1"
}

# job_value SECTION KEY JOB.yaml OPTIONS...: the value after --set, with ~ and ${VARIABLE} expanded as the program does.
job_value() {
  local section="$1" key="$2" file="$3" value name
  shift 3
  value="$(yaml_value "$file" "$section" "$key")"
  while [ $# -gt 0 ]; do
    case "$1" in
      --set) shift; [[ "${1:-}" != "$section.$key="* ]] || value="${1#*=}" ;;
      --set="$section.$key="*) value="${1#--set=*=}" ;;
    esac
    [ $# -eq 0 ] || shift
  done
  [[ "$value" != "~" && "$value" != "~/"* ]] || value="$HOME${value:1}"
  while [[ "$value" =~ \$\{([A-Za-z_][A-Za-z_0-9]*)\} ]]; do
    name="${BASH_REMATCH[1]}"
    value="${value/"\${$name}"/"${!name:-}"}"
  done
  printf '%s\n' "$value"
}

checkpoint_directory() {
  local directory output
  directory="$(job_value checkpoint path "$@")"
  if [ -z "$directory" ]; then
    output="$(job_value output path "$@")"
    [ -n "$output" ] || die "output.path is not found in $1; the program needs it, and this script looks for checkpoints there"
    directory="$output/checkpoint"
  fi
  printf '%s\n' "$directory"
}

# progress_of DIRECTORY: the place that its newest generation has reached, or "no checkpoint". A newer generation at the
# same place is no progress.
progress_of() {
  local manifest text position chunks
  manifest="$(find "$1" -maxdepth 1 -name 'gen-*.json' 2>/dev/null | sort | tail -n 1 || true)"
  if [ -z "$manifest" ]; then
    printf 'no checkpoint\n'
    return 0
  fi
  text="$(tr -d ' \t\n' 2>/dev/null <"$manifest" || true)"
  position="$(sed -n 's/.*"position":{\([^}]*\)}.*/\1/p' <<<"$text" | tr -d '"')"
  chunks="$(grep -o '"chunks":\[[^]]*\]' <<<"$text" | grep -o '[0-9][0-9]*' | wc -l || true)"
  printf '%s\n' "${position:-$(basename "$manifest")}, $chunks chunk(s) summed"
}
