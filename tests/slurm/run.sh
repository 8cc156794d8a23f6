#!/usr/bin/env bash
# The project's Slurm scripts under a real Slurm on this machine: starts the distribution's munged, slurmctld and two slurmd
# in a temporary directory, runs the cases, and stops and removes everything again.
#
#   tests/slurm/run.sh PROGRAM MAKE_TINY_JOB [CASE...]     # without names, all cases
#
# Exit code 77, with the reason, where Slurm is not installed or does not start. GPTQ_HPC_KEEP=1 keeps the directory.
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: run.sh PROGRAM MAKE_TINY_JOB [CASE...]" >&2; exit 2; }
PROGRAM="$(readlink -f "$1")" MAKE_TINY_JOB="$(readlink -f "$2")"
shift 2
TEST_DIR="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
REPO_DIR="$(dirname "$(dirname "$TEST_DIR")")"
# This may itself run inside a job; its settings are not ours.
unset "${!SLURM_@}" "${!SBATCH_@}" "${!GPTQ_HPC_S@}" GPTQ_HPC_LAUNCHER GPTQ_HPC_HOME
for part in cluster jobs cases; do
  # shellcheck source=/dev/null
  source "$TEST_DIR/$part.sh"
done

skip() {
  echo "SKIPPED: Slurm tests: $*"
  exit 77
}

finish() {
  local code=$?
  trap - EXIT
  stop_cluster
  if [ "${GPTQ_HPC_KEEP:-0}" = 1 ]; then echo "kept: $BASE"; else rm -rf "$BASE"; fi
  exit "$code"
}

BASE="$(mktemp -d "${TMPDIR:-/tmp}/gptq-hpc-slurm-XXXXXX")"
CLUSTER="$BASE/cluster" WORK="$BASE/work" JOB="$BASE/job/job.yaml"
REFERENCE="$BASE/reference" REFERENCE_W3="$BASE/reference-w3"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$CLUSTER" "$WORK"

missing="$(cluster_missing)"
[ -z "$missing" ] || skip "$missing"
reason="$(start_cluster 2>&1)" || skip "$reason"
export PATH="$PATH:/usr/sbin:/sbin" SLURM_CONF="$CLUSTER/slurm.conf"

# A site's env.sh: as the project's, and what Open MPI wants of a root user, of ranks that share cores, and of nodes that
# share /dev/shm (the names of its shared memory collide there, and ranks crash).
cat >"$BASE/env.sh" <<ENV
source "$REPO_DIR/slurm/env.sh"
GPTQ_HPC_PROGRAM="\${GPTQ_HPC_PROGRAM:-$PROGRAM}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_btl=tcp,self
ENV
export GPTQ_HPC_ENV="$BASE/env.sh" GPTQ_HPC_STATE_DIR="$BASE/state" OMP_NUM_THREADS=1

undisturbed() {
  env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none -n 2 "$PROGRAM" \
    quantize "$JOB" --set "output.path=$1" "${@:2}" >"$BASE/reference.log" 2>&1 </dev/null \
    || { cat "$BASE/reference.log"; echo "FAILED: the undisturbed run"; exit 1; }
}
"$MAKE_TINY_JOB" "$BASE/job" 12 24
undisturbed "$REFERENCE"
undisturbed "$REFERENCE_W3" --set quantization.bits=3

cases=("$@")
[ "${#cases[@]}" -gt 0 ] || mapfile -t cases < <(declare -F | sed -n 's/^declare -f case_//p')
failed=0
for name in "${cases[@]}"; do
  began=$SECONDS
  nodes_idle 40 || echo "    the nodes are not idle: $(sinfo -hN -o '%N %t' | tr '\n' ' ')"
  rm -f "$WORK"/log-*
  if (set -e; "case_$name"); then
    echo "ok      $name ($((SECONDS - began)) s)"
  else
    echo "FAILED  $name ($((SECONDS - began)) s)"
    failed=$((failed + 1))
    tail -n 60 "$WORK"/log-* 2>/dev/null || true
    tail -n 20 "$CLUSTER/slurmctld.log"
    scancel --user="$(id -un)" >/dev/null 2>&1 || true
  fi
done
echo "Slurm tests: $((${#cases[@]} - failed)) of ${#cases[@]} cases passed on slurm $(sinfo --version | awk '{print $2}')"
[ "$failed" -eq 0 ]
