#!/usr/bin/env bash
# The table of docs/quality.md: perplexity of gptq-hpc's recipes and of the other systems' at 4, 3 and 2 bits, symmetric, on
# SmolLM2-135M-Instruct, from the same samples. tools/bench/quality.yaml lists recipes and settings. Every result is a
# file in the cache; a run goes on where the last one stopped. Needs about 18 GB for the other systems' environments,
# and some hours on two cores for everything.
#
#   tools/bench/quality.sh --only ours                  # this program's recipes, each at every setting
#   tools/bench/quality.sh --only ours-rtn --setting w4-g64
#   tools/bench/quality.sh                              # everything that is not there yet
#   tools/bench/quality.sh --only gptqmodel --again     # measure again, also what failed
#   tools/bench/quality.sh --state                      # what is done, failed and waits
#   tools/bench/quality.sh --table-only                 # the table of what is there
#   tools/bench/quality.sh --table-only --publish       # ... into docs/quality.md and docs/benchmarks/
#   tools/bench/quality.sh --dithered --setting w4-g128 # the same network, its weights off the 4-bit grid they came on
#   tools/bench/quality.sh --program build/other/gptq-hpc --only ours
#
# Other systems run one at a time with all cores. Times are fit to be published where the machine was otherwise idle:
# each result says how many cores something else kept busy meanwhile.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/demo.sh"

nsamples=64 seqlen=1024 publish=false prepare=true dithered=false program=""
wanted=() passed_on=()
while [ $# -gt 0 ]; do
  case "$1" in
    --nsamples) nsamples="${2:?--nsamples needs a number}"; shift 2 ;;
    --seqlen) seqlen="${2:?--seqlen needs a number}"; shift 2 ;;
    --program) program="$(realpath "${2:?--program needs a path}")"; shift 2 ;;
    --publish) publish=true; shift ;;
    --dithered) dithered=true; shift ;;
    --only) wanted+=("${2:?--only needs a recipe or a system}"); passed_on+=("$1" "$2"); shift 2 ;;
    --state | --table-only) prepare=false; passed_on+=("$1"); shift ;;
    *) passed_on+=("$1"); shift ;;
  esac
done

# needs SYSTEM: whether a wanted recipe is this system's.
needs() {
  local word
  [ "${#wanted[@]}" -gt 0 ] || return 0
  for word in "${wanted[@]}"; do
    [[ "$word" != "$1"* ]] || return 0
  done
  return 1
}

# python_for SYSTEM: the interpreter that its environment is made with.
python_for() {
  local name
  if [ "$1" = onecomp ]; then
    for name in python3.13 python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[23]*/bin/python; do
      if "$name" -c 'import ssl, venv' 2>/dev/null; then
        command -v "$name"
        return
      fi
    done
    return 1
  fi
  echo python3
}

workload="${nsamples}x$seqlen"
samples="$CACHE_DIR/bench/$workload"
name="quality-$workload" model="$DEMO_MODEL" title="SmolLM2-135M-Instruct" part=quality
if $dithered; then
  name+="-dithered" model="$CACHE_DIR/bench/dithered-model" title+=", dithered" part=dithered
else
  passed_on+=(--adopt)
fi
folder="$CACHE_DIR/bench/$name"
if $prepare; then
  "$REPO_DIR/tools/install_deps.sh" --demo
  if [ -z "$program" ]; then build_targets gptq-hpc; fi
  prepare_demo
  for system in gptqmodel llmcompressor onecomp; do
    if needs "$system"; then  # a system that cannot be installed becomes rows that say so
      { python="$(python_for "$system")" &&
        make_venv "venv-$system" "$REPO_DIR/tools/bench/requirements-$system.txt" "$python" >/dev/null; } ||
        log "the Python environment of $system could not be made: its rows will say so"
    fi
  done
  mkdir -p "$samples" "$folder"
  if $dithered; then
    "$TOOLS_PYTHON" "$REPO_DIR/tools/bench/dither_model.py" --model "$DEMO_MODEL" --output "$model" >&2
  fi
  make_samples calibration "$samples/calibration.h5" --nsamples "$nsamples" --seqlen "$seqlen"
  for text in eval_a eval_b; do
    make_samples "$text" "$samples/$text.h5" --contiguous --nsamples 24 --seqlen 1024
  done
else
  TOOLS_PYTHON="$(tools_python)"
fi
if $publish; then
  passed_on+=(--publish "$REPO_DIR/docs/benchmarks/$name" --page "$REPO_DIR/docs/quality.md")
fi

exec "$TOOLS_PYTHON" "$REPO_DIR/tools/bench/quality.py" --model "$model" --samples "$samples" --folder "$folder" \
  --cache "$CACHE_DIR" --program "${program:-$GPTQ_HPC}" \
  --workload "$title, symmetric, $nsamples samples of $seqlen tokens" --part "$part" "${passed_on[@]}"
