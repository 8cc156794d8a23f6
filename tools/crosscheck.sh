#!/usr/bin/env bash
# Proves that other systems understand our output. First every number of bits in every checkpoint format that holds it:
# GPTQModel's own code must unpack the weights that we dequantize, bit for bit. Then the demonstration model is quantized
# to each number of bits, loaded in GPTQModel (and the 4-bit one in transformers) on the CPU, and their perplexity compared
# with `gptq-hpc eval` over the same windows; it fails where they differ by more than 0.5 %.
#
#   tools/crosscheck.sh [BITS...]            # default: 2 3 4 5 6 7 8
#   tools/crosscheck.sh --weights [BITS...]  # the first part alone
#
# Not part of tools/test.sh: it needs about 6 GB for GPTQModel and PyTorch, and some minutes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/lib/demo.sh"

weights_only=false
if [ "${1:-}" = --weights ]; then
  weights_only=true
  shift
fi
bits=("$@")
[ "${#bits[@]}" -gt 0 ] || bits=(2 3 4 5 6 7 8)
folder="$CACHE_DIR/crosscheck"
peers="$REPO_DIR/tools/bench/requirements-gptqmodel.txt"

"$REPO_DIR/tools/install_deps.sh" --demo
build_targets gptq-hpc
prepare_demo
python="$(make_venv venv-gptqmodel "$peers")" || die "the Python environment of GPTQModel could not be made"
mkdir -p "$folder"

# compare_weights NAME SETTING...: packs a model rounded to nearest, and dequantizes the same; GPTQModel must agree.
compare_weights() {
  local name="$1" setting settings=(--set quantization.method=rtn)
  shift
  for setting in "$@"; do settings+=(--set "$setting"); done
  for form in gptq dequantized; do
    "$GPTQ_HPC" quantize "$REPO_DIR/configs/quickstart.yaml" --overwrite "${DEMO_PATHS[@]}" "${settings[@]}" \
      --set "output.format=$form" --set "output.path=$folder/weights-$form" >"$folder/weights.log" 2>&1 ||
      { tail -n 20 "$folder/weights.log" >&2; die "$name could not be quantized"; }
  done
  "$python" "$REPO_DIR/tools/crosscheck/weights.py" "$folder/weights-gptq" "$folder/weights-dequantized" \
    >"$folder/weights.log" 2>&1 || touch "$folder/failed"
  printf '%-22s %s\n' "$name" "$(tail -n 1 "$folder/weights.log")"
}

rm -f "$folder/failed"
for b in "${bits[@]}"; do
  formats=(gptq gptq_v2 gptq_p)
  case "$b" in 5 | 6 | 7) formats=(gptq_p) ;; esac
  for format in "${formats[@]}"; do
    sym=false
    [ "$format" != gptq ] || sym=true  # GPTQModel takes asymmetric ones of v1 from itself alone
    compare_weights "$b bits, $format" "quantization.bits=$b" "quantization.sym=$sym" "output.checkpoint_format=$format"
  done
done
compare_weights "8, 5, 3 bits, gptq_p" quantization.bits=3 quantization.mlp_bits=5 \
  'quantization.module_bits={down_proj: 8}' quantization.group_size=64
[ ! -e "$folder/failed" ] || die "GPTQModel unpacks other weights"
if $weights_only; then exit 0; fi

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
