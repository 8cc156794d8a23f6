# shellcheck shell=bash
# The CPU and the GPU say the same; so do any number of ranks and any place of the activations.

step_make_model() {
  local size=(--hidden 512 --intermediate 1536 --layers 4 --heads 8 --kv-heads 4 --head-dim 64 --vocab 2048)
  local samples=32 tokens=256
  if $REHEARSAL; then
    size=(--hidden 64 --intermediate 128 --layers 2 --heads 2 --kv-heads 1 --head-dim 32 --vocab 128)
    samples=6 tokens=32
  fi
  "$ROOT/bin/make_synthetic_model" "${size[@]}" --no-tie --calibration "$WORK/calibration.h5" --samples "$samples" \
    --tokens "$tokens" --eval "$WORK/eval.h5" --eval-samples "$((samples / 2))" "$MODEL"
  cat >"$WORK/job.yaml" <<JOB
model: {path: $MODEL}
calibration: {path: $WORK/calibration.h5, chunk_tokens: $((tokens * 4))}
quantization: {bits: 4, group_size: 32, quality: fast}
output: {path: $WORK/unused}
eval: {data: [$WORK/eval.h5]}
log: {progress: none}
JOB
  note "${size[*]}; $samples x $tokens tokens"
}

# agree DTYPE EVAL_LIMIT MODEL_LIMIT CODES: perplexities of one model on both backends, and of both backends' outputs.
agree() {
  local dtype="$1" eval_limit="$2" model_limit="$3" codes="$4" model difference of=() on=()
  require_model
  job cpu "$dtype" "$WORK/cpu-$dtype"
  job cuda "$dtype" "$WORK/gpu-$dtype"
  for model in "$MODEL" "$WORK/cpu-$dtype" "$WORK/gpu-$dtype"; do
    on+=("$(perplexity cpu "$dtype" "$model")")
    of+=("$(perplexity cuda "$dtype" "$model")")
    difference="$(within "${of[-1]}" "${on[-1]}" "$eval_limit")" \
      || failure "perplexity of $(basename "$model"): ${on[-1]} on the CPU, ${of[-1]} on the GPU (apart by $difference, allowed $eval_limit)"
    note "perplexity of $(basename "$model"): CPU $(short "${on[-1]}"), GPU $(short "${of[-1]}") (apart by $difference)"
    value "perplexity_cpu_$(basename "$model")" "${on[-1]}"
    value "perplexity_gpu_$(basename "$model")" "${of[-1]}"
  done
  difference="$(within "${on[2]}" "${on[1]}" "$model_limit")" \
    || failure "the GPU's output is another model than the CPU's: perplexities apart by $difference, allowed $model_limit"
  note "outputs of CPU and GPU: perplexities apart by $difference"
  "$ROOT/bin/compare_models" --json "$STEP/codes.json" --require-codes "$codes" "$WORK/cpu-$dtype" "$WORK/gpu-$dtype" \
    || failure "fewer than $codes of the codes are equal, or other tensors differ"
  value equal_codes "$(json_number "$STEP/codes.json" equal_codes)"
  note "equal codes: $(short "$(json_number "$STEP/codes.json" equal_codes)"), equal scales: $(short "$(json_number "$STEP/codes.json" equal_scales)")"
  "$GPTQ_HPC" verify "$WORK/gpu-$dtype" || failure "verify rejects the GPU's output"
}

# In fp32 the two differ by the order of additions alone. A code flips where a weight lies between two codes to a
# millionth, and what follows in its row may differ then.
step_agree_fp32() { agree fp32 1e-4 2e-3 0.98; }
# bf16 rounds every activation at the 8th bit, on each backend after sums of another order.
step_agree_bf16() { agree bf16 1e-2 1e-2 0.5; }

# same NAME HASH COMMAND...: runs the job and compares its output's hash.
same() {
  local name="$1" wanted="$2" found
  shift 2
  "$@"
  found="$(identity "$WORK/$name")"
  if [ "$found" = "$wanted" ]; then note "$name: same"; else failure "$name: other bytes ($found, not $wanted)"; fi
  rm -rf "${WORK:?}/$name"
}

step_same_bytes() {
  local dtype wanted
  require_model
  for dtype in fp32 bf16; do
    undisturbed "$dtype"
    wanted="$(identity "$WORK/gpu-$dtype")"
    same "again-$dtype" "$wanted" job cuda "$dtype" "$WORK/again-$dtype"
    same "two-ranks-$dtype" "$wanted" ranks 2 job cuda "$dtype" "$WORK/two-ranks-$dtype"
    same "three-ranks-$dtype" "$wanted" ranks 3 job cuda "$dtype" "$WORK/three-ranks-$dtype"
  done
}

step_activations() {
  local place wanted
  require_model
  undisturbed bf16
  wanted="$(identity "$WORK/gpu-bf16")"
  for place in device host disk; do
    same "on-$place" "$wanted" job cuda bf16 "$WORK/on-$place" --set "compute.activations=$place"
  done
  same two-ranks-host "$wanted" ranks 2 job cuda bf16 "$WORK/two-ranks-host" --set compute.activations=host
}
