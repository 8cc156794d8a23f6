# shellcheck shell=bash

# gtest_run PROGRAM FILTER: runs it and reports the counts. No test that skips itself counts as passed.
gtest_run() {
  local program="$ROOT/libexec/$1" filter="$2" code=0 passed failed skipped
  [ -x "$program" ] || skip "$1 is not in this bundle (bundle.sh --without-tests)"
  GPTQ_HPC_REQUIRE_CUDA=1 "$program" --gtest_filter="$filter" --gtest_brief=0 --gtest_color=no >"$STEP/gtest.log" 2>&1 || code=$?
  grep -v '^\[ *\(RUN\|OK\) *\]' "$STEP/gtest.log" | tail -n 2000 || true
  grep '^\[ *OK *\].*([0-9]\{4,\} ms)' "$STEP/gtest.log" || true
  passed="$(sed -n 's/^\[  PASSED  \] \([0-9]*\) tests\{0,1\}.*/\1/p' "$STEP/gtest.log" | tail -n 1)"
  failed="$(sed -n 's/^\[  FAILED  \] \([0-9]*\) tests\{0,1\}, listed below.*/\1/p' "$STEP/gtest.log" | tail -n 1)"
  skipped="$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) tests\{0,1\}, listed below.*/\1/p' "$STEP/gtest.log" | tail -n 1)"
  value passed "${passed:-0}"
  value failed "${failed:-0}"
  value skipped "${skipped:-0}"
  note "${passed:-0} passed, ${failed:-0} failed, ${skipped:-0} skipped"
  if [ "${failed:-0}" -gt 0 ]; then
    failure "$(sed -n '/listed below/,$s/^\[  FAILED  \] \([^ ,]*\).*/\1/p' "$STEP/gtest.log" | sort -u | sed -n 1,12p | paste -s -d ' ')"
  elif [ "$code" -ne 0 ]; then
    failure "ended with code $code after $(sed -n 's/^\[ RUN *\] //p' "$STEP/gtest.log" | tail -n 1)"
  fi
  [ "${passed:-0}" -gt 0 ] || failure "no test ran"
}

# A rehearsal runs a test of each kind: all of them are run under emulation anyway (ctest -L emulated).
rehearsal_filter() { if $REHEARSAL; then printf '%s' "$1"; else printf '%s' '*/cuda*'; fi; }

step_kernels() { gtest_run kernel_tests "$(rehearsal_filter '*NormTest*/cuda*:*RowsTest*/cuda*')"; }
step_models() { gtest_run unit_tests "$(rehearsal_filter '*DecoderBlockTest*/cuda:*Factor*/cuda')"; }

step_mpi_tests() {
  local program="$ROOT/libexec/mpi_tests" code=0
  [ -x "$program" ] || skip "mpi_tests is not in this bundle"
  # Ranks that share a GPU: NCCL refuses that, so its tests skip themselves here.
  # Those of hanging ranks wait on purpose, a minute in all, and know nothing of GPUs.
  "$ROOT/bin/mpirun" --oversubscribe --bind-to none -n 2 "$program" \
    --gtest_filter='-BusyRanks.*:FalseAlarms.*:RankWatch.*' || code=$?
  [ "$code" -eq 0 ] || failure "ended with code $code"
  note "2 ranks on one GPU; NCCL itself needs two GPUs"
}
