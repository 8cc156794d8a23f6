# shellcheck shell=bash disable=SC2034,SC2153
# The demonstration models and their texts; sourced after common.sh by the quickstart, the benchmark and the cross-check.

DEMO_TEXT="$CACHE_DIR/quickstart/text"

# select_demo NAME: the model that all below is about. Sets DEMO_NAME, DEMO_TITLE, DEMO_DIR, DEMO_MODEL, DEMO_SAMPLING
# (options of prepare_calibration.py) and DEMO_PATHS.
select_demo() {
  DEMO_NAME="$1" DEMO_SAMPLING=()
  case "$1" in
    smollm2-135m) DEMO_TITLE="SmolLM2-135M-Instruct" DEMO_DIR="$CACHE_DIR/quickstart" ;;
    gemma3-270m) # a bad model of windows that do not begin with its bos token
      DEMO_TITLE="Gemma 3 270M" DEMO_DIR="$CACHE_DIR/quickstart-$1" DEMO_SAMPLING=(--bos) ;;
    *) die "unknown model $1; known are smollm2-135m and gemma3-270m" ;;
  esac
  DEMO_MODEL="$DEMO_DIR/model"
  # The paths in configs/quickstart.yaml start at the repository's root and its own .cache; these are the same wherever a
  # script is started and GPTQ_HPC_CACHE points.
  DEMO_PATHS=(
    --set "model.path=$DEMO_MODEL" --set "calibration.path=$DEMO_DIR/calibration.h5"
    --set "output.path=$DEMO_DIR/output" --set "eval.data=[$DEMO_DIR/eval_a.h5, $DEMO_DIR/eval_b.h5]"
  )
}
select_demo smollm2-135m

# demo_python: the interpreter that can convert the selected model.
demo_python() {
  case "$DEMO_NAME" in
    gemma3-270m) gguf_python ;;
    *) tools_python ;;
  esac
}

# prepare_demo: fetches the model and extracts the texts where they are not there yet. Sets TOOLS_PYTHON.
prepare_demo() {
  TOOLS_PYTHON="$(demo_python)" || die "the Python environment of the tools could not be made (is PyPI reachable?)"
  mkdir -p "$DEMO_DIR"
  "$TOOLS_PYTHON" "$REPO_DIR/tools/fetch_demo_model.py" --model "$DEMO_NAME" --output "$DEMO_MODEL" >&2
  if [ ! -f "$DEMO_TEXT/eval_b.txt" ]; then
    "$TOOLS_PYTHON" "$REPO_DIR/tools/prepare_demo_text.py" --html "$(handbook_directory)" --output "$DEMO_TEXT" >&2
  fi
}

# make_samples TEXT FILE OPTIONS...: FILE from text TEXT (calibration, eval_a, eval_b) where it is not there yet.
make_samples() {
  local text="$1" file="$2"
  shift 2
  [ -f "$file" ] || "$TOOLS_PYTHON" "$REPO_DIR/tools/prepare_calibration.py" --model "$DEMO_MODEL" \
    --source "$DEMO_TEXT/$text.txt" --output "$file" "${DEMO_SAMPLING[@]}" "$@" >&2
}
