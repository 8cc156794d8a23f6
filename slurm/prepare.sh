#!/usr/bin/env bash
# Makes a calibration (or evaluation) file with the model's own tokenizer. On a login or data node, which has a network,
# run it as it is; as a job, submit it. Options are those of tools/prepare_calibration.py:
#
#   slurm/prepare.sh --model /models/Llama-3.1-8B --source wikitext2 --nsamples 128 --seqlen 2048 --output calibration.h5
#SBATCH --job-name=gptq-hpc-prepare
#SBATCH --output=gptq-hpc-prepare-%j.out
#SBATCH --ntasks=1
set -euo pipefail
GPTQ_HPC_SCRIPT=prepare
# Slurm runs a copy of this file; it knows where the original is.
if [ -n "${SLURM_JOB_ID:-}" ] && [ -z "${GPTQ_HPC_HOME:-}" ]; then
  GPTQ_HPC_HOME="$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s|^ *Command=\(.*\)/slurm/$GPTQ_HPC_SCRIPT\.sh.*|\1|p;q}")"
fi
GPTQ_HPC_HOME="${GPTQ_HPC_HOME:-$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")}"
if [ ! -r "$GPTQ_HPC_HOME/slurm/lib/common.sh" ]; then
  echo "$GPTQ_HPC_SCRIPT: error: $GPTQ_HPC_HOME is not the gptq-hpc repository; export GPTQ_HPC_HOME before sbatch" >&2
  exit 2
fi
# shellcheck source=/dev/null
source "$GPTQ_HPC_HOME/slurm/lib/common.sh"

load_environment
python=python3
if [ -n "$GPTQ_HPC_VENV" ]; then
  python="$GPTQ_HPC_VENV/bin/python3"
  [ -x "$python" ] || die "GPTQ_HPC_VENV=$GPTQ_HPC_VENV holds no bin/python3 on $(hostname -s); make it: python3 -m venv $GPTQ_HPC_VENV && $GPTQ_HPC_VENV/bin/pip install -r $GPTQ_HPC_HOME/tools/requirements.txt"
fi
command -v "$python" >/dev/null || die "there is no $python in PATH; load a Python module in slurm/env.sh"
missing="$("$python" - "$GPTQ_HPC_HOME/tools/requirements.txt" <<'PYTHON'
import importlib.metadata, re, sys
for line in open(sys.argv[1]):
    name = re.match(r"[A-Za-z0-9_.-]*", line.split("#")[0].strip()).group()
    try:
        name and importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        print(name, end=" ")
PYTHON
)"
[ -z "$missing" ] || die "$python lacks: $missing; make an environment with tools/requirements.txt and name it as GPTQ_HPC_VENV in slurm/env.sh"
exec "$python" "$GPTQ_HPC_HOME/tools/prepare_calibration.py" "$@"
