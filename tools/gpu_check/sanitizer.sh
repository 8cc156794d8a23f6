# shellcheck shell=bash
# compute-sanitizer over tests that touch every kernel once; slow, so a part of the suite alone.

# sanitizer_path TOOL: where a tool of the toolkit is, in the PATH or not.
sanitizer_path() {
  local place
  command -v "$1" && return
  for place in "${CUDA_HOME:-/nonexistent}/bin" "${CUDA_PATH:-/nonexistent}/bin" /usr/local/cuda/bin /usr/local/cuda-*/bin \
    /usr/local/cuda/compute-sanitizer /opt/nvidia/*/*; do
    if [ -x "$place/$1" ]; then
      printf '%s\n' "$place/$1"
      return
    fi
  done
  return 1
}

# One test of each kind of kernel, in both types where it has two.
SANITIZED='*NormTest.OfEachHead/cuda*:*RotaryTest.TurnsTheLeadingFeatures/cuda*:*GatedActivationTest.AgreesWithTheReference/cuda*'
SANITIZED+=':*AttentionTest.LengthsAroundTiles/cuda*:*AttentionTest.WindowsAroundTiles/cuda*:*AttentionTest.HeadsOfManyWidths/cuda*'
SANITIZED+=':*CrossEntropyTest.AgreesWithTheReference/cuda*:*RowsTest.EmbeddingRows/cuda*:*RowsTest.FindsWhatIsNotFinite/cuda*'
SANITIZED+=':*HessianSumTest.AgreesWithDoublePrecision/cuda*:*HessianSumTest.ColumnMaxFindsTheLargestMagnitudeAndNan/cuda*'
SANITIZED+=':*FactorKernelTest.MultipliesBackToTheDampedHessianInVisitingOrder/cuda*:*LinearTest.OddAndSmallestSizes/cuda*'
SANITIZED+=':*SolveOptionsTest.*/cuda*:*SolveProperties.DeadColumnsGetTheZeroPoint/cuda*:*SolveRoundToNearest.*/cuda*'
SANITIZED+=':*CrossSumTest.AgreesWithDoublePrecision/cuda*:*ExpandTest.*/cuda*:*RowFiguresTest.*/cuda*'
SANITIZED+=':*SolveLevels.GivenScalesAreUsedAsTheyAre/cuda*:*CorrectRows.EqualStreamsChangeNothing/cuda*'
SANITIZED+=':*RefineProperties.ThreeLevels/cuda*:*RefineProperties.DeadColumnsAndRowsOfZerosStay/cuda*'

sanitize() {
  local tool="$1" sanitizer program="$ROOT/libexec/kernel_tests" code=0 options=() errors
  shift
  $REHEARSAL && skip "a rehearsal"
  sanitizer="$(sanitizer_path compute-sanitizer)" || skip "no compute-sanitizer on this machine"
  [ -x "$program" ] || skip "kernel_tests is not in this bundle"
  # Our kernels alone: the libraries' are not ours to check, and slow to.
  if "$sanitizer" --help 2>&1 | grep -- --kernel-regex >/dev/null; then options=(--kernel-regex kns=gptq); fi
  GPTQ_HPC_REQUIRE_CUDA=1 "$sanitizer" --tool "$tool" "${options[@]}" --error-exitcode 99 --print-limit 20 "$@" \
    "$program" --gtest_filter="$SANITIZED" --gtest_color=no >"$STEP/sanitizer.log" 2>&1 || code=$?
  grep -E '^=====|FAILED|PASSED|tests ran' "$STEP/sanitizer.log" | tail -n 300 || true
  errors="$(sed -n 's/.*ERROR SUMMARY: \([0-9]*\) error.*/\1/p; s/.*RACECHECK SUMMARY: \([0-9]*\) hazard.*/\1/p' "$STEP/sanitizer.log" | tail -n 1)"
  value errors "${errors:--1}"
  note "${errors:-no summary:} error(s); $(grep -E '^\[  PASSED  \]' "$STEP/sanitizer.log" | tail -n 1)"
  if grep -q 'Device not supported' "$STEP/sanitizer.log"; then skip "compute-sanitizer does not support this device"; fi
  [ "$code" -eq 0 ] || failure "$(grep -m 3 -E '^========= (Invalid|Error|Warning|Race|Uninit|Program|Barrier)' "$STEP/sanitizer.log" | paste -s -d ' ' || true) (exit code $code)"
}

step_memcheck() { sanitize memcheck --leak-check no; }
step_racecheck() { sanitize racecheck --racecheck-report analysis; }
step_synccheck() { sanitize synccheck; }
step_initcheck() { sanitize initcheck; }
