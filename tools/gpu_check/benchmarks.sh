# shellcheck shell=bash
# The figures: every kernel alone, then the job that people run.

LLAMA="$WORK/llama"

step_make_llama() {
  local shape=(--shape llama-3-8b) samples=128 tokens=2048 room
  if $REHEARSAL; then
    shape=(--hidden 64 --intermediate 128 --layers 2 --heads 2 --kv-heads 1 --head-dim 32 --vocab 128) samples=6 tokens=32
  elif $QUICK; then
    shape+=(--layers 8)
  fi
  if ! $REHEARSAL; then
    room="$(df -P --block-size=1G "$WORK" | awk 'NR == 2 { print $4 }')"
    [ "$room" -ge 40 ] || skip "$room GB are free in $(dirname "$WORK"), 40 are needed: --scratch names another place"
  fi
  note "$("$ROOT/bin/make_synthetic_model" "${shape[@]}" --calibration "$WORK/llama.h5" --samples "$samples" --tokens "$tokens" "$LLAMA")"
  cat >"$WORK/llama.yaml" <<JOB
model: {path: $LLAMA}
calibration: {path: $WORK/llama.h5}
quantization: {bits: 4, group_size: $(if $REHEARSAL; then echo 32; else echo 128; fi), quality: fast}
compute: {backend: cuda}
output: {path: $WORK/llama-out}
JOB
}

require_llama() { [ -f "$WORK/llama.yaml" ] || skip "there is no such model (step make_llama)"; }

step_plan() {
  require_llama
  "$GPTQ_HPC" plan "$WORK/llama.yaml" --json "$WORK/plan.json" | tee "$STEP/table"
}

# watch_gpu FILE: what nvidia-smi sees, once a second, until it is killed.
watch_gpu() {
  exec nvidia-smi --query-gpu=timestamp,memory.used,utilization.gpu,clocks.sm,power.draw,temperature.gpu --format=csv,noheader,nounits -lms 500 >"$1" 2>&1
}

# llama_job OUTPUT
llama_job() {
  local watch="" report="$1/report.json" predicted actual seconds
  if command -v nvidia-smi >/dev/null && ! $REHEARSAL; then
    watch_gpu "$STEP/gpu.csv" &
    watch=$!
  fi
  "$GPTQ_HPC" quantize "$WORK/llama.yaml" --set "output.path=$1" --set log.progress=lines | tee "$STEP/table"
  [ -z "$watch" ] || kill "$watch" 2>/dev/null || true
  seconds="$(json_number "$report" quantization_seconds)"
  value seconds "$(json_number "$report" seconds)"
  value quantization_seconds "$seconds"
  note "quantization $seconds s of $(json_number "$report" seconds) s in all"
  # The members of "memory": {"device": {...}}.
  predicted="$(sed -n '/"device": {/,/}/s/.*"predicted_bytes": *\([0-9]*\).*/\1/p' "$report" | sed -n 1p)"
  actual="$(sed -n '/"device": {/,/}/s/.*"actual_bytes": *\([0-9]*\).*/\1/p' "$report" | sed -n 1p)"
  if [ -n "$actual" ] && [ -n "$predicted" ]; then
    value device_predicted_bytes "$predicted"
    value device_actual_bytes "$actual"
    note "$(awk -v p="$predicted" -v a="$actual" 'BEGIN { printf "device memory: %.2f GB used at most, %.2f GB planned (%+.1f %%)", a / 1e9, p / 1e9, 100 * (p - a) / a }')"
  fi
  if [ -s "$STEP/gpu.csv" ]; then
    note "$(awk -F ', ' '$2 > m { m = $2 } $4 > c { c = $4 } $5 > w { w = $5 } { u += $3; n++ } END { printf "nvidia-smi: %d MiB at most, %.0f %% busy on average, up to %d MHz and %d W", m, u / n, c, w }' "$STEP/gpu.csv")"
    cat "$STEP/gpu.csv"
  fi
}

step_job() {
  require_llama
  llama_job "$WORK/llama-out"
  cp "$WORK/llama-out/report.json" "$OUT/job-report.json"
  print_phases "$WORK/llama-out/report.json" >>"$STEP/table"
  "$GPTQ_HPC" verify "$WORK/llama-out" || failure "verify rejects the output"
}

# print_phases REPORT: its phases as a table.
print_phases() {
  awk '
    /^  "phases": \{/ { inside = 1; printf "\n%-12s %10s %14s %14s %8s\n", "phase", "s", "TFLOP/s", "GB/s", "of peak"; next }
    /^  \}/ { inside = 0 }
    !inside { next }
    /^    "[a-z_]*": \{/ { name = $1; gsub(/[":]/, "", name); s = f = b = p = "" }
    /"seconds":/ { s = $2 + 0 }
    /"flops_per_second":/ { f = $2 / 1e12 }
    /"bytes_per_second":/ { b = $2 / 1e9 }
    /"share_of_matrix_rate":/ { p = $2 * 100 }
    /^    "[a-z_]*": [0-9.]/ { name = $1; gsub(/[":]/, "", name); printf "%-12s %10.3f\n", name, $2 }
    /^    \}/ { printf "%-12s %10.3f %14s %14s %8s\n", name, s, f == "" ? "" : sprintf("%.1f", f), b == "" ? "" : sprintf("%.2f", b), p == "" ? "" : sprintf("%.0f %%", p) }' "$1"
}

step_job_again() {
  require_llama
  [ -f "$WORK/llama-out/manifest.json" ] || skip "the first run did not end"
  llama_job "$WORK/llama-again"
  if [ "$(identity "$WORK/llama-out")" = "$(identity "$WORK/llama-again")" ]; then note "same bytes"; else failure "the second run gave other bytes"; fi
  print_phases "$WORK/llama-again/report.json" >>"$STEP/table"
}

step_kernel_bench() {
  local options=(--backend cuda --json "$OUT/kernels.json")
  [ -x "$ROOT/bin/kernel_bench" ] || skip "kernel_bench is not in this bundle"
  if $REHEARSAL; then options+=(--rehearse); else options+=(--quick --seconds 100); fi
  "$ROOT/bin/kernel_bench" "${options[@]}" | tee "$STEP/table"
}
