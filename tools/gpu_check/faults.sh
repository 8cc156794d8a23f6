# shellcheck shell=bash
# What goes wrong must be said, with the right exit code, and without waiting.

# expect CODE TEXT NAME COMMAND...: the command ends within a minute with this code and says TEXT (a pattern).
expect() {
  local wanted="$1" text="$2" name="$3" code=0
  shift 3
  "$@" >"$STEP/fault.log" 2>&1 || code=$?
  printf '%s: exit code %s\n' "$name" "$code"
  tail -n 12 "$STEP/fault.log"
  if [ "$code" -eq 124 ]; then
    failure "$name: hangs"
  elif [ "$wanted" != any ] && [ "$code" -ne "$wanted" ] || [ "$code" -eq 0 ]; then
    failure "$name: exit code $code, not $wanted"
  elif ! grep -qiE "$text" "$STEP/fault.log"; then
    failure "$name: the message does not say \"$text\""
  else
    note "$name: code $code, $(grep -iE "$text" "$STEP/fault.log" | sed -n 1p | cut -c 1-200)"
  fi
}
limited() { timeout --kill-after=5 60 "$@"; }

quantize_tiny() { limited "$@" "$GPTQ_HPC" quantize "$WORK/job.yaml" --set compute.backend=cuda --set compute.dtype=fp32 --set "output.path=$WORK/fault"; }

no_gpu() { if $REHEARSAL; then GPTQ_EMULATION_DEVICES=0 quantize_tiny env; else CUDA_VISIBLE_DEVICES="" quantize_tiny env; fi; }
# LD_PRELOAD meets the job alone: the launcher and its shell start before it.
broken_gpu() {
  if $REHEARSAL; then
    GPTQ_EMULATION_FAULT="0:$1" quantize_tiny env
  else
    GPTQ_CUDA_FAULT="$1" quantize_tiny env LD_PRELOAD="$ROOT/lib/gpu_check/cuda_fault.so"
  fi
}
broken_rank() {
  local variable="GPTQ_CUDA_FAULT=$1"
  if $REHEARSAL; then variable="GPTQ_EMULATION_FAULT=0:$1"; fi
  # shellcheck disable=SC2016
  limited "$ROOT/bin/mpirun" --oversubscribe --bind-to none -n 2 sh -c '
    if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then export "$1" && [ -z "$2" ] || export LD_PRELOAD="$2"; fi
    shift 2
    exec "$@"' sh "$variable" "$($REHEARSAL || echo "$ROOT/lib/gpu_check/cuda_fault.so")" \
    "$GPTQ_HPC" quantize "$WORK/job.yaml" --set compute.backend=cuda --set compute.dtype=fp32 --set "output.path=$WORK/fault"
}

# A calibration set whose activations no GPU holds, at a width that --rehearse can hold back as well.
too_large() {
  local shape=(--shape llama-3-8b) samples=6144 tokens=2048
  if $REHEARSAL; then
    shape=(--hidden 64 --intermediate 128 --layers 2 --heads 2 --kv-heads 1 --head-dim 32 --vocab 128)
    samples=2048 tokens=1024
    export GPTQ_EMULATION_MEMORY_BYTES=600000000
  fi
  "$ROOT/bin/make_synthetic_model" --hollow "${shape[@]}" --calibration "$WORK/large.h5" --samples "$samples" --tokens "$tokens" "$WORK/hollow"
  limited "$GPTQ_HPC" plan "$WORK/job.yaml" --set "model.path=$WORK/hollow" --set "calibration.path=$WORK/large.h5" \
    --set calibration.chunk_tokens=0 --set compute.backend=cuda --set compute.activations=device --set "output.path=$WORK/fault"
}

step_faults() {
  require_model
  undisturbed fp32
  expect 7 "no GPU is visible|no CUDA-capable|no GPU" "no GPU visible" no_gpu
  expect 2 "does not fit the device" "a plan that does not fit the GPU" too_large
  unset GPTQ_EMULATION_MEMORY_BYTES
  rm -rf "$WORK/fault"
  # With checkpoints on the way: the one before the fault must be good.
  expect 7 "CUDA error" "a CUDA error in the middle" in_the_middle broken_gpu
  same fault "$(identity "$WORK/gpu-fp32")" job cuda fp32 "$WORK/fault"
  expect any "CUDA error" "a CUDA error on one of two ranks" in_the_middle broken_rank
  same fault "$(identity "$WORK/gpu-fp32")" ranks 2 job cuda fp32 "$WORK/fault"
}

# in_the_middle COMMAND: with the number of the kernel launch that fails; how many a job needs is not known beforehand.
in_the_middle() {
  local launch code
  for launch in 1600 400 100 25; do
    rm -rf "$WORK/fault"
    code=0
    with_checkpoints "$1" "$launch" || code=$?
    [ "$code" -eq 0 ] || break
  done
  echo "launch $launch fails"
  return "$code"
}

with_checkpoints() {
  cp "$WORK/job.yaml" "$WORK/job.kept"
  printf 'checkpoint: {interval: 0}\ncomm: {timeout: 40}\n' >>"$WORK/job.yaml"
  local code=0
  "$@" || code=$?
  mv "$WORK/job.kept" "$WORK/job.yaml"
  return "$code"
}
