#!/usr/bin/env bash
# Builds what changed and runs every test that needs no GPU. Arguments go to ctest: tools/test.sh -R hessian
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

"$REPO_DIR/tools/install_deps.sh" --slurm  # Slurm where it can be had; its test says so where it is skipped
build_targets

if python="$(tools_python)"; then
  (cd "$REPO_DIR" && "$python" -m unittest discover --start-directory tools/tests)
else
  log "WARNING: tests of the Python tools were left out: their packages could not be installed"
fi

# Ranks of an MPI test share the cores with other tests: ctest counts a test's ranks as its processors.
exec ctest --test-dir "$BUILD_DIR" --output-on-failure --no-tests=error --parallel "$(nproc)" "$@"
