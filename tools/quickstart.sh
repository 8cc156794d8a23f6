#!/usr/bin/env bash
# From a fresh clone on Debian to a real language model quantized to 4 bits, with its perplexity before and after.
#
#   tools/quickstart.sh           # run again, it reuses what is there and not older than the program
#   tools/quickstart.sh --fresh   # quantizes and evaluates again
#
# Everything is kept under .cache/ (or $GPTQ_HPC_CACHE).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/lib/demo.sh"

ranks=2
job="$REPO_DIR/configs/quickstart.yaml"
output="$DEMO_DIR/output"
results="$DEMO_DIR/results"

fresh=false
case "${1:-}" in
  "") ;;
  --fresh) fresh=true ;;
  *) die "unknown option $1; usage: tools/quickstart.sh [--fresh]" ;;
esac

# is_current RESULT INPUT...: the result is there and no input is newer.
is_current() {
  local result="$1" input
  shift
  ! $fresh && [ -f "$result" ] || return 1
  for input in "$@"; do
    [ ! "$input" -nt "$result" ] || return 1
  done
}

# evaluate NAME DIR: perplexity of the model in DIR on both texts, into results/NAME.json.
evaluate() {
  is_current "$results/$1.json" "$2/config.json" "$DEMO_DIR/eval_a.h5" "$DEMO_DIR/eval_b.h5" && return
  log "measuring the perplexity of the $1 model"
  run_ranks "$ranks" "$GPTQ_HPC" eval "$job" "${DEMO_PATHS[@]}" --model "$2" --json "$results/$1.json"
}

"$REPO_DIR/tools/install_deps.sh" --demo
log "building"
build_targets gptq-hpc

prepare_demo
make_samples calibration "$DEMO_DIR/calibration.h5" --nsamples 32 --seqlen 512
for text in eval_a eval_b; do
  make_samples "$text" "$DEMO_DIR/$text.h5" --contiguous --nsamples 24 --seqlen 1024
done

mkdir -p "$results"
if ! is_current "$output/report.json" "$job" "$DEMO_DIR/calibration.h5" "$GPTQ_HPC"; then
  log "quantizing: mpirun -n $ranks gptq-hpc quantize configs/quickstart.yaml"
  run_ranks "$ranks" "$GPTQ_HPC" quantize "$job" "${DEMO_PATHS[@]}" --overwrite
fi
evaluate source "$DEMO_MODEL"
evaluate quantized "$output"

"$TOOLS_PYTHON" "$REPO_DIR/tools/lib/quickstart_table.py" --source "$DEMO_MODEL" --output "$output" --results "$results"
