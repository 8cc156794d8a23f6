#!/usr/bin/env bash
# Perplexity of the source or the quantized model; options are those of `gptq-hpc eval`.
#
#   sbatch --ntasks=8 --cpus-per-task=16 --time=01:00:00 slurm/eval.sh job.yaml [--model DIR] [--json FILE]
#SBATCH --job-name=gptq-hpc-eval
#SBATCH --output=gptq-hpc-eval-%j.out
#SBATCH --open-mode=append
set -euo pipefail
GPTQ_HPC_SCRIPT="eval"
# Slurm runs a copy of this file; it knows where the original is.
if [ -n "${SLURM_JOB_ID:-}" ] && [ -z "${GPTQ_HPC_HOME:-}" ]; then
  GPTQ_HPC_HOME="$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s|^ *Command=\(.*\)/slurm/$GPTQ_HPC_SCRIPT\.sh.*|\1|p;q}")"
fi
GPTQ_HPC_HOME="${GPTQ_HPC_HOME:-$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")}"
if [ ! -r "$GPTQ_HPC_HOME/slurm/lib/common.sh" ]; then
  echo "$GPTQ_HPC_SCRIPT: error: $GPTQ_HPC_HOME is not the gptq-hpc repository; export GPTQ_HPC_HOME before sbatch" >&2
  exit 2
fi
for part in common launcher; do
  # shellcheck source=/dev/null
  source "$GPTQ_HPC_HOME/slurm/lib/$part.sh"
done

require_job "$@"
require_job_file "$@"
load_environment
find_program
choose_launcher
exec "${launcher[@]}" "$GPTQ_HPC_PROGRAM" eval "$@"
