#!/usr/bin/env bash
# What docs/scaling.md shows: plans of large models on described machines, and predictions checked against real runs.
#
#   tools/scaling.sh plans              # the examples as text and JSON, the curves as CSV: .cache/scaling
#   tools/scaling.sh plans --publish    # also docs/scaling/: a page of them, with a picture
#   tools/scaling.sh check              # measures this machine and runs the demonstration model on 1 to 4 ranks of a thread;
#                                       # fails if a prediction is off by more than 15 %. Wants a quiet machine.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/lib/demo.sh"

what="${1:-plans}" option="${2:-}"
folder="$CACHE_DIR/scaling"
mkdir -p "$folder"
cd "$REPO_DIR" # descriptions and configs are named from here

# plan MODEL RANKS [SAMPLES]: the plan of a model on so many H100.
plan() {
  log "$1 on $2 ranks"
  "$GPTQ_HPC" plan configs/models/plan.yaml --set "model.path=configs/models/$1" --machine h100-8 --ranks "$2" \
    --samples "${3:-512x2048}" --json "$folder/$1-$2.json" 2>&1 | tee "$folder/$1-$2.txt"
}

# curve MODEL FIRST: strong scaling up to 1,024 ranks, with a sample for each.
curve() {
  log "$1 on $2 to 1024 ranks"
  "$GPTQ_HPC" plan configs/models/plan.yaml --set "model.path=configs/models/$1" --machine h100-8 --samples 1024x2048 \
    --scaling "$2..1024" --csv "$folder/$1.csv" >/dev/null
}

plans() {
  plan llama-3-8b 1
  plan llama-3-70b 8
  plan llama-3-405b 64
  plan deepseek-v3 64
  plan deepseek-v3 512
  plan kimi-k2 1024 1024x2048
  curve llama-3-8b 1
  curve llama-3-70b 1
  curve llama-3-405b 1
  curve deepseek-v3 1
  log "written to $folder"
}

# on RANKS COMMAND...: a thread a rank; with more ranks than cores they share them.
on() {
  local ranks="$1"
  shift
  mpirun --oversubscribe --bind-to none -n "$ranks" -x OMP_NUM_THREADS=1 "$GPTQ_HPC" "$@"
}

check() {
  prepare_demo
  make_samples calibration "$DEMO_DIR/calibration.h5" --nsamples 32 --seqlen 512
  local job=(configs/quickstart.yaml "${DEMO_PATHS[@]}" --set "output.path=$folder/output")
  on 4 plan "${job[@]}" --measure "$folder/here.yaml"
  local failed=false
  for ranks in 1 2 3 4; do
    rm -rf "$folder/output"
    on "$ranks" quantize "${job[@]}" --machine "$folder/here.yaml" --set log.progress=none >"$folder/run-$ranks.txt" 2>&1
    sed -n '/predicted .* actual/,$p' "$folder/run-$ranks.txt"
    python3 - "$folder/output/report.json" "$ranks" <<'PYTHON' || failed=true
import json, sys
report = json.load(open(sys.argv[1], encoding="utf-8"))
phases = {name: phase for name, phase in report["plan"]["phases"].items() if name != "start"}
predicted, actual = sum(p["predicted"] for p in phases.values()), sum(p["seconds"] for p in report["phases"].values())
off = predicted / actual - 1
print(f"{sys.argv[2]} rank(s): predicted {predicted:.1f} s, took {actual:.1f} s: off by {100 * off:+.0f} %")
sys.exit(abs(off) > 0.15)
PYTHON
  done
  ! $failed || die "a prediction is off by more than 15 %"
}

[ -x "$GPTQ_HPC" ] || build_targets gptq-hpc
case "$what $option" in
  "plans ") plans ;;
  "plans --publish")
    plans
    python="$(make_venv venv-plot "$REPO_DIR/tools/requirements-plot.txt")"
    "$python" tools/scaling_page.py "$folder" docs/scaling
    ;;
  "check ") check ;;
  *) die "unknown: $what $option; it is plans, plans --publish or check" ;;
esac
