#!/usr/bin/env bash
# Checks and measures a bundle of gptq-hpc on a machine with a GPU, from the bundle alone, and writes one report.
#
#   bin/gpu_check.sh --out DIR                       # in an unpacked bundle
#   tools/gpu_check.sh --bundle FILE.tar.gz --out DIR
#
#   --part all|correctness|benchmarks   which half (all)
#   --time-limit SECONDS                for everything (1500); what does not fit is skipped, and the report says so
#   --quick                             smaller benchmarks: eight of Llama-3-8B's 32 blocks
#   --only NAME,NAME                    these steps alone (the names in the report's table)
#   --scratch DIR                       where models are made (a place in memory if it has 60 GB, else $TMPDIR)
#   --rehearse PLUGIN.so                tiny sizes, with the CUDA backend's emulation on the CPU in place of a GPU
#
# Goes on after a failure. Exit codes: 0 all passed (skipped steps do not count), 1 something failed or nothing ran, 2 wrong usage.
# In DIR: report.md, report.json, logs.txt, and of the benchmarks kernels.json and job-report.json; with one part alone
# report-PART.md and so on. docs/gpu.md tells how to read them.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
name=gpu_check
usage() {
  sed -n '2,/^set -euo/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  [ $# -eq 0 ] || echo "$name: error: $*" >&2
  exit 2
}

bundle="" OUT="" PART=all TIME_LIMIT=1500 QUICK=false ONLY="" SCRATCH="" REHEARSE="" arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --bundle) bundle="${2:?}" && shift 2 && continue ;;
    --out) OUT="${2:?}" && arguments+=("$1" "$2") && shift ;;
    --part) PART="${2:?}" && arguments+=("$1" "$2") && shift ;;
    --time-limit) TIME_LIMIT="${2:?}" && shift ;;
    --only) ONLY="${2:?}" && arguments+=("$1" "$2") && shift ;;
    --scratch) SCRATCH="${2:?}" && arguments+=("$1" "$2") && shift ;;
    --rehearse) REHEARSE="$(readlink -f "${2:?}")" && arguments+=("$1" "$REHEARSE") && shift ;;
    --quick) QUICK=true && arguments+=("$1") ;;
    --help | -h) usage ;;
    *) usage "unknown option $1" ;;
  esac
  shift
done
[ -n "$OUT" ] || usage "--out DIR is missing"
case "$PART" in all | correctness | benchmarks) ;; *) usage "--part $PART: it may be all, correctness or benchmarks" ;; esac
[[ "$TIME_LIMIT" =~ ^[1-9][0-9]*$ ]] || usage "--time-limit $TIME_LIMIT is not a whole number of seconds"
[ -z "$REHEARSE" ] || [ -f "$REHEARSE" ] || usage "--rehearse $REHEARSE: there is no such file"

# The bundle brings this script and its parts: those of one build belong together.
if [ -n "$bundle" ]; then
  if [ -f "$bundle" ]; then
    place="$(mktemp -d "${TMPDIR:-/tmp}/gptq-hpc-check-XXXXXX")"
    trap 'rm -rf "$place"' EXIT
    tar -C "$place" -xf "$bundle" || { echo "$name: error: $bundle does not unpack (a .zst needs zstd)" >&2; exit 2; }
    bundle="$(echo "$place"/gptq-hpc-*)"
  fi
  [ -x "$bundle/bin/gpu_check.sh" ] || usage "--bundle $bundle is no bundle: bin/gpu_check.sh is not in it"
  "$bundle/bin/gpu_check.sh" "${arguments[@]}" --time-limit "$((TIME_LIMIT - SECONDS))"
  exit
fi
ROOT="$(dirname "$here")"
LIBRARY="$ROOT/share/gpu_check"
[ -f "$LIBRARY/report.sh" ] || usage "this is not a bundle's copy of the script: name the bundle with --bundle (tools/bundle.sh makes one)"

mkdir -p "$OUT"
OUT="$(cd "$OUT" && pwd)"
if [ -z "$SCRATCH" ]; then
  SCRATCH="${TMPDIR:-/tmp}"
  [ "$(df -P --block-size=1G /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')" -lt 60 ] 2>/dev/null || SCRATCH=/dev/shm
fi
WORK="$(mktemp -d "$SCRATCH/gptq-hpc-check-XXXXXX")"
mkdir -p "$WORK/steps"
STARTED="$(date -u +%Y-%m-%dT%H:%M:%SZ)"
REHEARSAL=false
[ -z "$REHEARSE" ] || REHEARSAL=true
export ROOT LIBRARY OUT WORK PART QUICK REHEARSAL STARTED TIME_LIMIT

# shellcheck source=/dev/null
set +u && source "$ROOT/env.sh" && set -u
export GPTQ_FIXTURES="$ROOT/share/tests/fixtures" GPTQ_PROGRAM="$ROOT/bin/gptq-hpc"
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
if [ "$(id -u)" -eq 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
! $REHEARSAL || export GPTQ_HPC_CUDA_PLUGIN="$REHEARSE"

# shellcheck source=gpu_check/report.sh
source "$LIBRARY/report.sh"
trap 'finish' EXIT
trap 'exit 143' TERM INT

# step NAME LEAST MOST "title": at most MOST seconds; skipped with fewer than LEAST left.
step facts 1 60 "The machine, the driver, the bundle"
if [ "$PART" != benchmarks ]; then
  step start 2 60 "The CUDA backend starts and says what it found"
  step kernels 20 240 "Every kernel against its reference (kernel_tests)"
  step models 5 120 "Backend, model and factor tests (unit_tests)"
  step make_model 2 60 "A small model is made"
  step agree_fp32 10 120 "CPU and GPU in fp32: equal codes, equal perplexity"
  step agree_bf16 10 120 "CPU and GPU in bf16: equal perplexity"
  step same_bytes 10 120 "Same bytes: again, on 2 and on 3 ranks of one GPU"
  step activations 8 90 "Same bytes wherever activations lie (device, host, disk)"
  step resume 10 90 "A killed job goes on with the same bytes"
  step other_backend 10 90 "CPU goes on for GPU and the reverse, when allowed"
  step faults 10 120 "Bad input and faults end with a message, not in a hang"
  step mpi_tests 5 60 "Collectives on device memory (mpi_tests, 2 ranks)"
  step memcheck 20 90 "compute-sanitizer: memory"
  step racecheck 20 90 "compute-sanitizer: races"
  step synccheck 20 60 "compute-sanitizer: barriers"
  step initcheck 20 60 "compute-sanitizer: uninitialised memory"
fi
if [ "$PART" != correctness ]; then
  step make_llama 10 150 "A model of Llama-3-8B's shape is made"
  step plan 5 60 "The plan for it"
  step job 30 300 "The job: 128 x 2048 tokens, 4 bits, groups of 128"
  step kernel_bench 20 150 "Every kernel beside the machine's limits (kernel_bench)"
  step job_again 30 200 "The job once more: same bytes, files in memory"
fi
[ "$(count failed)" -eq 0 ] && [ "$(count passed)" -gt 0 ]
