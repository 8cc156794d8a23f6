# shellcheck shell=bash disable=SC2034
# What is special about this site: the only file here to edit. Every script of this folder sources it inside the job;
# source it yourself before sbatch if the SBATCH_ variables below are used. GPTQ_HPC_ENV=FILE names another file instead.
# Values from the environment win, so that one job may differ: sbatch --export=ALL,GPTQ_HPC_LAUNCHER=mpirun ...

# Modules that the program was built with.
# module purge
# module load gcc openmpi hdf5 openblas onednn

# Where and on whose account jobs run, unless sbatch says it: read by sbatch itself, hence to be exported before it.
# export SBATCH_PARTITION=standard
# export SBATCH_ACCOUNT=project

# The program. Empty: build/cpu/gptq-hpc of this repository, else the one in PATH.
GPTQ_HPC_PROGRAM="${GPTQ_HPC_PROGRAM:-}"

# srun, mpirun, or auto: srun where `srun --mpi=$GPTQ_HPC_SRUN_MPI` is seen to connect the ranks, else mpirun.
GPTQ_HPC_LAUNCHER="${GPTQ_HPC_LAUNCHER:-auto}"
GPTQ_HPC_SRUN_MPI="${GPTQ_HPC_SRUN_MPI:-pmix}"
GPTQ_HPC_SRUN_OPTIONS="${GPTQ_HPC_SRUN_OPTIONS:-}"
GPTQ_HPC_MPIRUN_OPTIONS="${GPTQ_HPC_MPIRUN_OPTIONS:---bind-to none}"

# Attempts in a row that may end without a newer checkpoint before the job gives up.
GPTQ_HPC_MAX_STALLED="${GPTQ_HPC_MAX_STALLED:-3}"

# Seconds that the program has to stop after Slurm's warning; then the job is requeued as it is. Less than the 300 of
# `#SBATCH --signal=B:USR1@300` in quantize.sh: a job that meets its time limit is not run again by Slurm.
GPTQ_HPC_STOP_SECONDS="${GPTQ_HPC_STOP_SECONDS:-240}"

# Where jobs keep the count of their attempts. Empty: .gptq-hpc-slurm in the directory of submission.
GPTQ_HPC_STATE_DIR="${GPTQ_HPC_STATE_DIR:-}"

# Python environment with tools/requirements.txt, for prepare.sh. Empty: the python3 of PATH.
GPTQ_HPC_VENV="${GPTQ_HPC_VENV:-}"
