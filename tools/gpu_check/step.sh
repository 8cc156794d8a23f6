# shellcheck shell=bash
# One step of gpu_check.sh, as a process of its own so that its time can be limited: step.sh NAME. Exit codes: 0 passed,
# 77 skipped, others failed.
set -euo pipefail
for part in jobs facts tests agreement recovery faults sanitizer benchmarks; do
  # shellcheck source=/dev/null
  source "$LIBRARY/$part.sh"
done
"step_$1"
[ ! -f "$STEP/failures" ] || exit 1
