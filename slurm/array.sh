#!/usr/bin/env bash
# Several recipes of one model, each a task of a job array that is interrupted and comes back on its own.
#
#   sbatch --array=1-3 --ntasks=8 --cpus-per-task=16 --time=04:00:00 slurm/array.sh recipes.txt
#
# recipes.txt has a recipe a line: a job file and options, as one would give them to quantize.sh. Empty lines and lines that
# start with # do not count. Outputs must differ:
#
#   job.yaml --set quantization.bits=4 --set output.path=/models/out-w4
#   job.yaml --set quantization.bits=3 --set output.path=/models/out-w3
#SBATCH --job-name=gptq-hpc
#SBATCH --output=gptq-hpc-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
set -euo pipefail
GPTQ_HPC_SCRIPT=array
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

[ -n "${SLURM_ARRAY_TASK_ID:-}" ] || die "this is not a task of a job array; submit with: sbatch --array=1-N slurm/array.sh RECIPES"
recipes="${1:-}"
[ -n "$recipes" ] || die "no file of recipes given; usage: sbatch --array=1-N slurm/array.sh RECIPES"
[ -r "$recipes" ] || die "$recipes cannot be read on $(hostname -s); paths start at $PWD, the directory of submission"
mapfile -t lines < <(grep -v -e '^[[:space:]]*#' -e '^[[:space:]]*$' "$recipes")
[ "$SLURM_ARRAY_TASK_ID" -ge 1 ] && [ "$SLURM_ARRAY_TASK_ID" -le "${#lines[@]}" ] \
  || die "task $SLURM_ARRAY_TASK_ID has no recipe: $recipes holds ${#lines[@]}; submit with --array=1-${#lines[@]}"
line="${lines[SLURM_ARRAY_TASK_ID - 1]}"
# xargs takes quotes apart like a shell but runs nothing.
mapfile -d '' -t words < <(xargs printf '%s\0' <<<"$line")
log "task $SLURM_ARRAY_TASK_ID: $line"

require_job_file "${words[@]}"
load_environment
find_program
checkpoint="$(checkpoint_directory "${words[@]}")"
attempt "${words[@]}"
