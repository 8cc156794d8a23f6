# shellcheck shell=bash
# What the scripts of slurm/ share; sourced after GPTQ_HPC_HOME (the repository's root) is set.

log() { printf '%s %s: %s\n' "$(date +%H:%M:%S)" "${GPTQ_HPC_SCRIPT:-slurm}" "$*"; }

die() {
  log "error: $*" >&2
  exit 2
}

load_environment() {
  local file="${GPTQ_HPC_ENV:-$GPTQ_HPC_HOME/slurm/env.sh}"
  [ -r "$file" ] || die "$file cannot be read; it holds what is special about this site (see docs/slurm.md)"
  # shellcheck source=/dev/null
  source "$file"
  local name
  for name in GPTQ_HPC_MAX_STALLED GPTQ_HPC_STOP_SECONDS; do
    [[ "${!name:-}" =~ ^[1-9][0-9]*$ ]] || die "$name='${!name:-}' in $file is not a whole number above 0"
  done
}

require_job() {
  [ -n "${SLURM_JOB_ID:-}" ] || die "this is not a Slurm job; submit with: sbatch [options] slurm/$GPTQ_HPC_SCRIPT.sh $*"
}

require_job_file() {
  [ -n "${1:-}" ] || die "no job file given; usage: sbatch [options] slurm/$GPTQ_HPC_SCRIPT.sh JOB.yaml [options of gptq-hpc]"
  [ -r "$1" ] || die "job file $1 cannot be read on $(hostname -s); paths start at $PWD, the directory of submission"
}

find_program() {
  local program="${GPTQ_HPC_PROGRAM:-}"
  if [ -z "$program" ]; then
    program="$GPTQ_HPC_HOME/build/cpu/gptq-hpc"
    if [ ! -x "$program" ] && [ -x "$GPTQ_HPC_HOME/libexec/gptq-hpc" ]; then # an unpacked bundle, with its own mpirun
      program="$GPTQ_HPC_HOME/bin/gptq-hpc"
      export PATH="$GPTQ_HPC_HOME/bin:$PATH"
    fi
    [ -x "$program" ] || program="$(command -v gptq-hpc || true)"
    [ -n "$program" ] || die "no gptq-hpc: neither $GPTQ_HPC_HOME/build/cpu/gptq-hpc nor in PATH; build it or set GPTQ_HPC_PROGRAM in slurm/env.sh"
  fi
  [ -x "$program" ] || die "GPTQ_HPC_PROGRAM=$program is not an executable file on $(hostname -s)"
  GPTQ_HPC_PROGRAM="$program"
}
