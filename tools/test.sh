#!/usr/bin/env bash
# Builds what changed and runs every test that needs no GPU. Arguments go to ctest: tools/test.sh -R hessian
# Where nvcc is, the CUDA and NCCL plugins are compiled and linked too; the tests load them, and run their kernels by
# emulation (docs/gpu.md). What a GPU itself must prove is tools/gpu_check.sh's.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

"$REPO_DIR/tools/install_deps.sh" --slurm  # Slurm where it can be had; its test says so where it is skipped
build_targets
if has_nvcc; then
  build_gpu_plugins
  export GPTQ_HPC_TEST_CUDA="$CUDA_BUILD_DIR/gptq_hpc_cuda.so"
  [ ! -f "$CUDA_BUILD_DIR/gptq_hpc_nccl.so" ] || export GPTQ_HPC_TEST_NCCL="$CUDA_BUILD_DIR/gptq_hpc_nccl.so"
else
  log "no nvcc: the GPU plugins are not compiled"
fi

if python="$(gguf_python)"; then
  (cd "$REPO_DIR" && "$python" -m unittest discover --start-directory tools/tests)
else
  log "WARNING: tests of the Python tools were left out: their packages could not be installed"
fi

# Ranks of an MPI test share the cores with other tests: ctest counts a test's ranks as its processors.
exec ctest --test-dir "$BUILD_DIR" --output-on-failure --no-tests=error --parallel "$(nproc)" "$@"
