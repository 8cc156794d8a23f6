#!/usr/bin/env bash
# Proves that other systems understand our output: quantizes the demonstration model to 2, 3, 4 and 8 bits, loads each
# in GPTQModel (and the 4-bit one in transformers) on the CPU, and compares their perplexity with `gptq-hpc eval` over
# the same windows. Fails where they differ by more than 0.5 %.
#
#   tools/crosscheck.sh [BITS...]     # default: 2 3 4 8
#
# Not part of tools/test.sh: it needs about 6 GB for GPTQModel and PyTorch, and some minutes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/lib/demo.sh"

bits=("$@")
[ "${#bits[@]}" -gt 0 ] || bits=(2 3 4 8)
folder="$CACHE_DIR/crosscheck"
peers="$REPO_DIR/tools/bench/requirements-gptqmodel.txt"

"$REPO_DIR/tools/install_deps.sh" --demo
build_targets gptq-hpc
prepare_demo
python="$(make_venv venv-gptqmodel "$peers")" || die "the Python environment of GPTQModel could not be made"
mkdir -p "$folder"
make_samples calibration "$DEMO_DIR/calibration.h5" --nsamples 32 --seqlen 512
evaluation="$folder/evaluation.h5"
make_samples eval_a "$evaluation" --contiguous --nsamples 12 --seqlen 1024

# compare BITS LOADER: prints one line and appends to $folder/failed where the figures differ.
compare() {
  local theirs="$folder/w$1-$2.json"
  "$python" "$REPO_DIR/tools/crosscheck/perplexity.py" --loader "$2" --model "$folder/w$1" --data "$evaluation" \
    >"$folder/w$1-$2.log" 2>&1 || { tail -n 20 "$folder/w$1-$2.log" >&2; die "$2 could not load the $1-bit model"; }
  tail -n 1 "$folder/w$1-$2.log" >"$theirs"
  "$TOOLS_PYTHON" "$REPO_DIR/tools/crosscheck/compare.py" "$1" "$folder/w$1.json" "$theirs" || touch "$folder/failed"
}

rm -f "$folder/failed"
for b in "${bits[@]}"; do
  log "quantizing to $b bits"
  run_ranks 2 "$GPTQ_HPC" quantize "$REPO_DIR/configs/quickstart.yaml" --overwrite "${DEMO_PATHS[@]}" \
    --set "quantization.bits=$b" --set "output.path=$folder/w$b"
  run_ranks 2 "$GPTQ_HPC" eval "$REPO_DIR/configs/quickstart.yaml" "${DEMO_PATHS[@]}" --model "$folder/w$b" \
    --data "$evaluation" --json "$folder/w$b.json"
done
printf '%4s  %-14s %12s %12s %12s\n' bits loader theirs gptq-hpc difference
for b in "${bits[@]}"; do
  compare "$b" gptqmodel
  [ "$b" -ne 4 ] || compare "$b" transformers
done
[ ! -e "$folder/failed" ] || die "the perplexities differ by more than 0.5 %"
log "all loaders agree with gptq-hpc eval to 0.5 %"
