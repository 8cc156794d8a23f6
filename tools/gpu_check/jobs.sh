# shellcheck shell=bash disable=SC2034
# What the steps share: what they say, and how they run jobs.

# note TEXT: a line of the report.
note() { printf '%s\n' "$*" | tee -a "$STEP/details"; }
# value KEY NUMBER: a figure of report.json.
value() { printf '%s\t%s\n' "$1" "$2" >>"$STEP/values"; }
# fact KEY TEXT: a line of the report's head.
fact() { printf '%s\t%s\n' "$1" "$2" | tee -a "$WORK/facts"; }
skip() { note "$*" && exit 77; }
# failure TEXT: the step fails, and goes on.
failure() { note "FAILED: $*" && : >"$STEP/failures"; }
die() { failure "$*" && exit 1; }

GPTQ_HPC="$ROOT/bin/gptq-hpc"
MODEL="$WORK/model"

# json_number FILE KEY: the first number of this name in a file that our programs wrote, a key a line.
json_number() { sed -n "s/^ *\"$2\": *\(-\{0,1\}[0-9][-+0-9.eE]*\),\{0,1\}\$/\1/p" "$1" | sed -n 1p; }
json_string() { sed -n "s/^ *\"$2\": *\"\(.*\)\",\{0,1\}\$/\1/p" "$1" | sed -n 1p; }

short() { printf '%.6g' "$1"; }

# within A B LIMIT: |A - B| / |B| <= LIMIT; prints the difference.
within() { awk -v a="$1" -v b="$2" -v limit="$3" 'BEGIN { d = (a - b) / b; if (d < 0) d = -d; printf "%.2e", d; exit !(d <= limit && a + 0 == a + 0 && b > 0) }'; }

# job BACKEND DTYPE OUTPUT OPTIONS...: quantizes the small model. Same chunks on both backends, so that one can go on for
# the other.
job() {
  job_words "$@"
  "${JOB[@]}"
}
job_words() {
  local backend="$1" dtype="$2" output="$3"
  shift 3
  JOB=("${LAUNCHER[@]}" "$GPTQ_HPC" quantize "$WORK/job.yaml" --set "compute.backend=$backend" --set "compute.dtype=$dtype"
    --set "output.path=$output" "$@")
}
LAUNCHER=()

# ranks N COMMAND...: the same on N ranks.
ranks() {
  local count="$1"
  shift
  LAUNCHER=("$ROOT/bin/mpirun" --oversubscribe --bind-to none -n "$count")
  "$@"
  LAUNCHER=()
}

# perplexity BACKEND DTYPE MODEL
perplexity() {
  "$GPTQ_HPC" eval "$WORK/job.yaml" --set "compute.backend=$1" --set "compute.dtype=$2" --model "$3" --json "$STEP/eval.json" >&2
  json_number "$STEP/eval.json" perplexity
}

# identity OUTPUT: a hash of all its files but the reports (its manifest holds theirs).
identity() { sha256sum "$1/manifest.json" | cut -c 1-16; }

require_model() { [ -f "$WORK/job.yaml" ] || skip "there is no small model (step make_model)"; }
# undisturbed DTYPE: the GPU's own output of an earlier step, or made now.
undisturbed() {
  [ -f "$WORK/gpu-$1/manifest.json" ] || job cuda "$1" "$WORK/gpu-$1"
}
