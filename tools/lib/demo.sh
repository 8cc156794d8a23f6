# shellcheck shell=bash disable=SC2034,SC2153
# The demonstration model and its texts; sourced after common.sh by the quickstart, the benchmark and the cross-check.

DEMO_DIR="$CACHE_DIR/quickstart"
DEMO_MODEL="$DEMO_DIR/model"

# The paths in configs/quickstart.yaml start at the repository's root and its own .cache; these are the same wherever a
# script is started and GPTQ_HPC_CACHE points.
DEMO_PATHS=(
  --set "model.path=$DEMO_MODEL" --set "calibration.path=$DEMO_DIR/calibration.h5"
  --set "output.path=$DEMO_DIR/output" --set "eval.data=[$DEMO_DIR/eval_a.h5, $DEMO_DIR/eval_b.h5]"
)

# prepare_demo: fetches the model and extracts the texts where they are not there yet. Sets TOOLS_PYTHON.
prepare_demo() {
  TOOLS_PYTHON="$(tools_python)" || die "the Python environment of the tools could not be made (is PyPI reachable?)"
  mkdir -p "$DEMO_DIR"
  "$TOOLS_PYTHON" "$REPO_DIR/tools/fetch_demo_model.py" --output "$DEMO_MODEL" >&2
  if [ ! -f "$DEMO_DIR/text/eval_b.txt" ]; then
    "$TOOLS_PYTHON" "$REPO_DIR/tools/prepare_demo_text.py" --html "$(handbook_directory)" --output "$DEMO_DIR/text" >&2
  fi
}

# make_samples TEXT FILE OPTIONS...: FILE from text TEXT (calibration, eval_a, eval_b) where it is not there yet.
make_samples() {
  local text="$1" file="$2"
  shift 2
  [ -f "$file" ] || "$TOOLS_PYTHON" "$REPO_DIR/tools/prepare_calibration.py" --model "$DEMO_MODEL" \
    --source "$DEMO_DIR/text/$text.txt" --output "$file" "$@" >&2
}
