# shellcheck shell=bash disable=SC2034
# What the shell scripts of tools/ share; sourced by them after `set -euo pipefail`. Sets REPO_DIR and CACHE_DIR.

REPO_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
CACHE_DIR="${GPTQ_HPC_CACHE:-$REPO_DIR/.cache}"
BUILD_DIR="$REPO_DIR/build/cpu"
CUDA_BUILD_DIR="$REPO_DIR/build/cuda"
GPTQ_HPC="$BUILD_DIR/gptq-hpc"

log() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }

die() {
  log "error: $*"
  exit 1
}

# Open MPI refuses to start as root unless told twice, and more ranks than cores unless told once.
if [ "$(id -u)" -eq 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMPI_MCA_rmaps_base_oversubscribe=1

# handbook_directory: prints where the handbook's English pages are, or nothing.
handbook_directory() {
  local root
  for root in "" "$CACHE_DIR/debian-handbook/unpacked"; do
    if [ -f "$root/usr/share/doc/debian-handbook/html/en-US/index.html" ]; then
      printf '%s\n' "$root/usr/share/doc/debian-handbook/html/en-US"
      return
    fi
  done
}

# all_requirements FILE: its lines, with those of the files that it takes in by -r in their place.
all_requirements() {
  local line
  while IFS= read -r line; do
    case "$line" in
      "-r "*) all_requirements "$(dirname "$1")/${line#-r }" ;;
      *) printf '%s\n' "$line" ;;
    esac
  done <"$1"
}

# make_venv NAME REQUIREMENTS_FILE [PYTHON]: makes or updates the virtual environment CACHE_DIR/NAME; prints its python.
# A copy of the requirements inside marks it complete; pip runs only where they changed.
make_venv() {
  local folder="$CACHE_DIR/$1" requirements="$2" python="${3:-python3}"
  if ! all_requirements "$requirements" | cmp -s - "$folder/requirements.installed"; then
    log "making the Python environment $1"
    mkdir -p "$CACHE_DIR"
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder" >&2 || return 1
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" >&2 || return 1
    all_requirements "$requirements" >"$folder/requirements.installed"
  fi
  printf '%s\n' "$folder/bin/python"
}

tools_python() { make_venv venv-tools "$REPO_DIR/tools/requirements.txt"; }

# gguf_python: the same with what converting any GGUF needs.
gguf_python() { make_venv venv-gguf "$REPO_DIR/tools/requirements-gguf.txt"; }

# build_targets [TARGET...]: configures and builds what changed; without names, everything.
build_targets() {
  local targets=()
  [ $# -eq 0 ] || targets=(--target "$@")
  (
    cd "$REPO_DIR" && cmake --preset cpu >&2 && cmake --build --preset cpu "${targets[@]}" >&2
  )
}

# has_nvcc: whether CUDA sources can be compiled here.
has_nvcc() { command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; }

# build_gpu_plugins: compiles the CUDA and (where NCCL is) NCCL plugins into CUDA_BUILD_DIR. The program that loads them
# may come from the other build: both are of the same sources.
build_gpu_plugins() {
  (
    cd "$REPO_DIR" && cmake --preset cuda >&2 && cmake --build --preset cuda --target gpu_plugins >&2
  )
}

# run_ranks N COMMAND...: the command on N ranks that share this machine's cores.
run_ranks() {
  local ranks="$1" threads
  shift
  threads=$(($(nproc) / ranks))
  OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}" \
    mpirun -n "$ranks" --bind-to none "$@"
}
