# shellcheck shell=bash disable=SC2034
# How ranks are started. Sets `launcher`, an array to be followed by the program.

# The ranks of a wrong --mpi each believe to be alone: only a program that starts MPI can tell. --version is printed by
# the root, so one line means one world.
srun_connects_ranks() {
  command -v srun >/dev/null || { why="there is no srun"; return 1; }
  if ! srun --mpi=list 2>&1 | grep -w "$GPTQ_HPC_SRUN_MPI" >/dev/null; then
    why="Slurm has no --mpi=$GPTQ_HPC_SRUN_MPI"
    return 1
  fi
  local output roots
  # shellcheck disable=SC2086
  if ! output="$(timeout -k 5 60 srun --mpi="$GPTQ_HPC_SRUN_MPI" $GPTQ_HPC_SRUN_OPTIONS "$GPTQ_HPC_PROGRAM" --version 2>&1)"; then
    why="a trial of srun --mpi=$GPTQ_HPC_SRUN_MPI failed ($(grep -v '^ *$' <<<"$output" | sed -n 1p))"
    return 1
  fi
  roots="$(grep -c '^gptq-hpc ' <<<"$output")"
  why="srun --mpi=$GPTQ_HPC_SRUN_MPI made $roots world(s) of $ranks rank(s) in a trial"
  [ "$roots" -eq 1 ]
}

choose_launcher() {
  local why chosen="$GPTQ_HPC_LAUNCHER"
  ranks="${SLURM_NTASKS:-${SLURM_JOB_NUM_NODES:-1}}"
  # srun does not take this from sbatch by itself.
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"
  case "$chosen" in
    srun | mpirun) why="GPTQ_HPC_LAUNCHER says so" ;;
    auto)
      if srun_connects_ranks; then
        chosen=srun
      elif command -v mpirun >/dev/null; then
        chosen=mpirun
      else
        die "no way to start ranks: $why, and there is no mpirun in PATH; load the MPI module in slurm/env.sh"
      fi
      ;;
    *) die "GPTQ_HPC_LAUNCHER=$chosen is not known; it may be auto, srun or mpirun" ;;
  esac
  command -v "$chosen" >/dev/null || die "GPTQ_HPC_LAUNCHER=$chosen, but there is no $chosen in PATH; load its module in slurm/env.sh"
  # shellcheck disable=SC2206
  if [ "$chosen" = srun ]; then
    launcher=(srun --mpi="$GPTQ_HPC_SRUN_MPI" --kill-on-bad-exit=1 $GPTQ_HPC_SRUN_OPTIONS)
  else
    launcher=(mpirun -n "$ranks" $GPTQ_HPC_MPIRUN_OPTIONS)
  fi
  log "$ranks rank(s) on ${SLURM_JOB_NODELIST:-?} with ${launcher[*]}: $why"
}
