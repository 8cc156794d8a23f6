#!/usr/bin/env bash
# Speed, memory and quality of gptq-hpc, GPTQModel and llm-compressor on SmolLM2-135M-Instruct: 4 bits, symmetric, the same
# samples, on this machine's CPU. Needs about 12 GB for the other systems' Python environments, made on the first run.
#
#   tools/bench/run.sh                          # everything, 64 samples of 1024 tokens
#   tools/bench/run.sh --only ours              # this system now, the others from earlier runs
#   tools/bench/run.sh --only ours --eval-only  # only the perplexities
#   tools/bench/run.sh --publish                # also writes docs/benchmarks/
#   tools/bench/run.sh --table-only             # the stored results
#   tools/bench/run.sh --nsamples 8 --seqlen 128 --only gptqmodel   # a small trial, stored apart
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/demo.sh"

command="tools/bench/run.sh $*"
nsamples=64 seqlen=1024 publish=false
systems=() passed_on=()
while [ $# -gt 0 ]; do
  case "$1" in
    --nsamples) nsamples="${2:?--nsamples needs a number}"; shift 2 ;;
    --seqlen) seqlen="${2:?--seqlen needs a number}"; shift 2 ;;
    --publish) publish=true; shift ;;
    --only) systems+=("${2:?--only needs a system}"); passed_on+=("$1" "$2"); shift 2 ;;
    *) passed_on+=("$1"); shift ;;
  esac
done
[ "${#systems[@]}" -gt 0 ] || systems=(gptqmodel llmcompressor)

"$REPO_DIR/tools/install_deps.sh" --demo
build_targets gptq-hpc
prepare_demo
for system in "${systems[@]}"; do
  requirements="$REPO_DIR/tools/bench/requirements-$system.txt"
  [ ! -f "$requirements" ] || make_venv "venv-$system" "$requirements" >/dev/null \
    || die "the Python environment of $system could not be made"
done

workload="${nsamples}x$seqlen"
folder="$CACHE_DIR/bench/$workload"
mkdir -p "$folder"
make_samples calibration "$folder/calibration.h5" --nsamples "$nsamples" --seqlen "$seqlen"
make_samples calibration "$folder/warm-up.h5" --nsamples 2 --seqlen 64
for text in eval_a eval_b; do
  make_samples "$text" "$folder/$text.h5" --contiguous --nsamples 24 --seqlen 1024
done
if $publish; then
  passed_on+=(--publish "$REPO_DIR/docs/benchmarks/smollm2-w4-$workload")
fi

"$TOOLS_PYTHON" "$REPO_DIR/tools/bench/bench.py" --model "$DEMO_MODEL" --folder "$folder" --cache "$CACHE_DIR" \
  --program "$GPTQ_HPC" --command "${command% }" \
  --workload "SmolLM2-135M-Instruct, 4 bits, symmetric, $nsamples samples of $seqlen tokens" "${passed_on[@]}"
