#!/usr/bin/env bash
# Runs tools/gpu_check.sh from a bundle, with the emulated CUDA backend and tiny models in place of a GPU: every step must
# pass, or skip itself for want of a GPU; and it must fail where the backend does not start. Exit code 77 without patchelf.
#
#   tests/bundle/rehearse.sh BUILD_DIR EMULATED_PLUGIN
set -euo pipefail
build="$(cd "${1:?build directory}" && pwd)"
plugin="${2:?plugin}"
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
fail() { echo "FAILED: $*" && exit 1; }
command -v patchelf >/dev/null || { echo "skipped: no patchelf" && exit 77; }

work="$(mktemp -d "${TMPDIR:-/tmp}/gptq-hpc-rehearsal-XXXXXX")"
trap 'rm -rf "$work"' EXIT
# verdict NAME FILE: of a step in the report.
verdict() { sed -n "s/.*\"name\": \"$1\", \"verdict\": \"\([a-z]*\)\".*/\1/p" "$2"; }

tarball="$("$repository/tools/bundle.sh" --build "$build" --output "$work" --level 1 | tail -n 1)"
"$repository/tools/gpu_check.sh" --bundle "$tarball" --out "$work/out" --scratch "$work" --rehearse "$plugin" \
  || { cat "$work/out/report.md"; fail "the rehearsal"; }
for step in facts start kernels models make_model agree_fp32 agree_bf16 same_bytes activations resume other_backend faults \
  mpi_tests make_llama plan job job_again kernel_bench; do
  [ "$(verdict "$step" "$work/out/report.json")" = passed ] || { cat "$work/out/report.md"; fail "step $step did not pass"; }
done
[ "$(find "$work/out" -type f | wc -l)" -le 8 ] || fail "more files than a small report has"
compgen -G "$work/gptq-hpc-check-*" >/dev/null && fail "the scratch folder was left behind"

mkdir "$work/bundle"
tar -C "$work/bundle" -xf "$tarball"
printf 'no plugin\n' >"$work/broken.so"
check="$(echo "$work"/bundle/gptq-hpc-*/bin/gpu_check.sh)"
code=0
"$check" --out "$work/broken" --rehearse "$work/broken.so" --part correctness --only start || code=$?
[ "$code" -eq 1 ] || fail "a backend that does not start gives exit code $code, not 1"
[ "$(verdict start "$work/broken/report-correctness.json")" = failed ] || fail "a backend that does not start is not in the report"

# Where time is short, steps are left out, and the report says so.
"$check" --out "$work/short" --rehearse "$plugin" --time-limit 1 --only make_model >"$work/short.log" || true
[ -f "$work/short/report.json" ] || fail "no report where time is short"
echo passed
