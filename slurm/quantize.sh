#!/usr/bin/env bash
# Quantizes a model and ends with a finished one however often it is interrupted: requeues itself when its time is up.
#
#   sbatch --nodes=2 --ntasks-per-node=4 --cpus-per-task=16 --time=04:00:00 slurm/quantize.sh job.yaml [--set KEY=VALUE ...]
#
# docs/slurm.md tells the rest. What is special about the site stands in slurm/env.sh.
#SBATCH --job-name=gptq-hpc
#SBATCH --output=gptq-hpc-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
set -euo pipefail
GPTQ_HPC_SCRIPT=quantize
# Slurm runs a copy of this file; it knows where the original is.
if [ -n "${SLURM_JOB_ID:-}" ] && [ -z "${GPTQ_HPC_HOME:-}" ]; then
  GPTQ_HPC_HOME="$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s|^ *Command=\(.*\)/slurm/$GPTQ_HPC_SCRIPT\.sh.*|\1|p;q}")"
fi
GPTQ_HPC_HOME="${GPTQ_HPC_HOME:-$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")}"
if [ ! -r "$GPTQ_HPC_HOME/slurm/lib/common.sh" ]; then
  echo "$GPTQ_HPC_SCRIPT: error: $GPTQ_HPC_HOME is not the gptq-hpc repository; export GPTQ_HPC_HOME before sbatch" >&2
  exit 2
fi
for part in common launcher job_file attempts; do
  # shellcheck source=/dev/null
  source "$GPTQ_HPC_HOME/slurm/lib/$part.sh"
done

require_job "$@"
require_job_file "$@"
load_environment
find_program
checkpoint="$(checkpoint_directory "$@")"
attempt "$@"
