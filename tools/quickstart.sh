#!/usr/bin/env bash
# From a fresh clone on Debian to a real language model quantized to 4 bits, with its perplexity before and after.
#
#   tools/quickstart.sh                       # SmolLM2-135M-Instruct; run again, it reuses what is there and not older than the program
#   tools/quickstart.sh --model gemma3-270m   # Gemma 3 270M (terms of use: docs/quality.md, "A second model")
#   tools/quickstart.sh --compare             # also rounded to nearest and by quality: fast
#   tools/quickstart.sh --fresh               # quantizes and evaluates again
#   tools/quickstart.sh --program FILE        # with this gptq-hpc instead of building one
#
# Everything is kept under .cache/ (or $GPTQ_HPC_CACHE).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/lib/demo.sh"

ranks=2
job="$REPO_DIR/configs/quickstart.yaml"
fresh=false compare=false build=true

while [ $# -gt 0 ]; do
  case "$1" in
    --model) select_demo "${2:?--model needs a name}"; shift ;;
    --program) GPTQ_HPC="$(realpath "${2:?--program needs a path}")" build=false; shift ;;
    --compare) compare=true ;;
    --fresh) fresh=true ;;
    *) die "unknown option $1; usage: tools/quickstart.sh [--model NAME] [--compare] [--fresh] [--program FILE]" ;;
  esac
  shift
done
results="$DEMO_DIR/results"
rows=()

# is_current RESULT INPUT...: the result is there and no input is newer.
is_current() {
  local result="$1" input
  shift
  ! $fresh && [ -f "$result" ] || return 1
  for input in "$@"; do
    [ ! "$input" -nt "$result" ] || return 1
  done
}

# evaluate NAME LABEL DIR: perplexity of the model in DIR on both texts, into results/NAME.json; a row of the table.
evaluate() {
  rows+=(--row "$1" "$2" "$3")
  is_current "$results/$1.json" "$3/config.json" "$DEMO_DIR/eval_a.h5" "$DEMO_DIR/eval_b.h5" && return
  log "measuring the perplexity of the $1 model"
  run_ranks "$ranks" "$GPTQ_HPC" eval "$job" "${DEMO_PATHS[@]}" --model "$3" --json "$results/$1.json"
}

# quantize DIR SETTING...: the job with these settings, into DIR.
quantize() {
  local output="$1" setting settings=()
  shift
  is_current "$output/report.json" "$job" "$DEMO_DIR/calibration.h5" "$GPTQ_HPC" && return
  for setting in "$@"; do settings+=(--set "$setting"); done
  log "quantizing: mpirun -n $ranks gptq-hpc quantize configs/quickstart.yaml ${settings[*]}"
  run_ranks "$ranks" "$GPTQ_HPC" quantize "$job" "${DEMO_PATHS[@]}" --set "output.path=$output" "${settings[@]}" --overwrite
}

"$REPO_DIR/tools/install_deps.sh" --demo
if $build; then
  log "building"
  build_targets gptq-hpc
fi

prepare_demo
make_samples calibration "$DEMO_DIR/calibration.h5" --nsamples 32 --seqlen 512
for text in eval_a eval_b; do
  make_samples "$text" "$DEMO_DIR/$text.h5" --contiguous --nsamples 24 --seqlen 1024
done

mkdir -p "$results"
quantize "$DEMO_DIR/output"
evaluate source "source, bf16" "$DEMO_MODEL"
if $compare; then
  quantize "$DEMO_DIR/output-rtn" quantization.method=rtn
  evaluate rtn "round to nearest, {bits} bits" "$DEMO_DIR/output-rtn"
  quantize "$DEMO_DIR/output-fast" quantization.quality=fast
  evaluate fast "GPTQ, quality: fast, {bits} bits" "$DEMO_DIR/output-fast"
fi
evaluate quantized "GPTQ, {bits} bits" "$DEMO_DIR/output"

"$TOOLS_PYTHON" "$REPO_DIR/tools/lib/quickstart_table.py" --title "$DEMO_TITLE" --results "$results" "${rows[@]}"
