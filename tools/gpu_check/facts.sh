# shellcheck shell=bash

step_facts() {
  local plugin="$ROOT/lib/gptq-hpc/gptq_hpc_cuda.so" missing
  fact bundle "$("$GPTQ_HPC" --version | paste -s -d ' ')"
  fact host "$(uname -srm), glibc $(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d ' ' -f 2)"
  fact cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sed -n 1p), $(nproc) cores"
  fact memory "$(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1e6 }' /proc/meminfo), $(df -P --block-size=1G "$WORK" | awk 'NR == 2 { print $4 }') GB free in $(dirname "$WORK")"
  if $REHEARSAL; then
    fact gpu "none: rehearsal with $(basename "$GPTQ_HPC_CUDA_PLUGIN")"
    note "a rehearsal"
    return
  fi
  fact "CUDA libraries" "${LD_LIBRARY_PATH:-where the system keeps them}"
  : >"$WORK/stop" # until there is a GPU to go on with
  [ -f "$plugin" ] || die "this bundle has no CUDA backend: build the preset cuda, then make the bundle"
  missing="$(ldd "$plugin" 2>/dev/null | awk '/not found/ { print $1 }' | paste -s -d ' ')"
  [ -z "$missing" ] || failure "not found on this node: $missing (load its CUDA module, or set CUDA_HOME)"
  command -v nvidia-smi >/dev/null || die "there is no nvidia-smi, so no NVIDIA driver"
  nvidia-smi || die "nvidia-smi finds no GPU"
  rm "$WORK/stop"
  fact gpu "$(nvidia-smi --query-gpu=name,memory.total,driver_version,compute_cap --format=csv,noheader | paste -s -d ';')"
  fact nccl "$([ -f "$ROOT/lib/gptq-hpc/gptq_hpc_nccl.so" ] && echo "plugin in the bundle" || echo "no plugin in the bundle")"
  fact tools "$(for tool in compute-sanitizer nsys ncu; do sanitizer_path "$tool" 2>/dev/null || true; done | paste -s -d ' ')"
  nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.limit,memory.used,utilization.gpu,compute_mode --format=csv
  note "$(nvidia-smi --query-gpu=name --format=csv,noheader | paste -s -d ';')"
}

step_start() {
  printf 'model: {path: %s/none}\n' "$WORK" >"$WORK/none.yaml"
  "$ROOT/bin/make_synthetic_model" --shape tiny --calibration "$WORK/tiny.h5" --samples 2 --tokens 32 "$WORK/tiny"
  cat >"$WORK/tiny.yaml" <<JOB
model: {path: $WORK/tiny}
calibration: {path: $WORK/tiny.h5}
output: {path: $WORK/tiny-out}
compute: {backend: cuda}
log: {progress: none}
JOB
  "$GPTQ_HPC" quantize "$WORK/tiny.yaml" | tee "$STEP/out"
  "$GPTQ_HPC" verify "$WORK/tiny-out"
  note "$(json_string "$WORK/tiny-out/report.json" device || true)"
  note "first job: $(json_number "$WORK/tiny-out/report.json" seconds) s"
}
