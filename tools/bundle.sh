#!/usr/bin/env bash
# Makes one relocatable tarball of the program with the shared libraries that a bare node lacks.
#
#   tools/bundle.sh                         # of build/cuda where it was built, else of build/cpu; into .cache/bundle/
#   tools/bundle.sh --build DIR --output DIR --format zst --level 19   # smaller, but not every tar unpacks it
#   tools/bundle.sh --with-cuda-libraries   # cuBLASLt, cuSOLVER, NCCL … too: gigabytes, for nodes without CUDA
#   tools/bundle.sh --without-tests         # without the test programs that bin/gpu_check.sh runs
#
# Prints the tarball's path. docs/cluster-bundle.md says what is in it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source "$REPO_DIR/tools/lib/bundle_libraries.sh"
source "$REPO_DIR/tools/lib/bundle_mpi.sh"

build="" output="$CACHE_DIR/bundle" format=gz level="" with_cuda=false with_tests=true
usage() { die "usage: tools/bundle.sh [--build DIR] [--output DIR] [--format zst|gz] [--level N] [--with-cuda-libraries] [--without-tests]"; }
while [ $# -gt 0 ]; do
  case "$1" in
    --build) build="${2:?}" && shift ;;
    --output) output="${2:?}" && shift ;;
    --format) format="${2:?}" && shift ;;
    --level) level="${2:?}" && shift ;;
    --with-cuda-libraries) with_cuda=true ;;
    --without-tests) with_tests=false ;;
    *) usage ;;
  esac
  shift
done
if [ -z "$build" ]; then
  build="$REPO_DIR/build/cuda"
  [ -x "$build/gptq-hpc" ] || build="$REPO_DIR/build/cpu"
fi
[ "$format" = zst ] || [ "$format" = gz ] || usage
for program in gptq-hpc make_synthetic_model; do
  [ -x "$build/$program" ] || die "$build/$program is not there: build it first (cmake --preset cuda && cmake --build --preset cuda)"
done
command -v patchelf >/dev/null || die "patchelf is missing; tools/install_deps.sh installs it"

version="$("$build/gptq-hpc" --version | awk 'NR == 1 { print $2 }')"
name="gptq-hpc-$version-linux-x86_64"
mkdir -p "$output"
work="$(mktemp -d "$output/.bundle-XXXXXX")"
trap 'rm -rf "$work"' EXIT
root="$work/$name"
mkdir -p "$root"/{bin,libexec,lib/gptq-hpc,share/licenses,etc/openmpi,etc/pmix,docs}

# add_program FILE NAME: an executable, and the script that starts it.
add_program() {
  install -m 755 "$1" "$root/libexec/$2"
  install -m 755 "$REPO_DIR/tools/bundle/start.sh" "$root/bin/$2"
}

add_program "$build/gptq-hpc" gptq-hpc
for tool in make_synthetic_model compare_models kernel_bench; do
  [ ! -x "$build/$tool" ] || add_program "$build/$tool" "$tool"
done
for plugin in gptq_hpc_cuda.so gptq_hpc_nccl.so; do
  [ ! -f "$build/$plugin" ] || install -m 644 "$build/$plugin" "$root/lib/gptq-hpc/"
done
if $with_tests; then
  for suite in kernel_tests unit_tests mpi_tests; do
    [ ! -x "$build/tests/$suite" ] || install -m 755 "$build/tests/$suite" "$root/libexec/"
  done
  mkdir -p "$root/share/tests" "$root/lib/gpu_check"
  [ ! -f "$build/cuda_fault.so" ] || install -m 644 "$build/cuda_fault.so" "$root/lib/gpu_check/"
  cp -r "$REPO_DIR/tests/fixtures" "$root/share/tests/fixtures"
  find "$root/share/tests" \( -name '*.py' -o -name __pycache__ \) -prune -exec rm -rf {} +
fi
add_mpi
strip_all
add_libraries
set_search_paths
cuda="not built in"
if [ -f "$root/lib/gptq-hpc/gptq_hpc_cuda.so" ]; then
  cuda="backend: needs the driver and CUDA's own libraries, found by env.sh (/usr/local/cuda, LD_LIBRARY_PATH, PyTorch's)"
  ! $with_cuda || cuda="backend and CUDA's own libraries: needs the driver only"
fi

install -m 644 "$REPO_DIR/tools/bundle/env.sh" "$root/env.sh"
install -m 755 "$REPO_DIR/tools/gpu_check.sh" "$root/bin/gpu_check.sh"
mkdir -p "$root/share/gpu_check"
install -m 644 "$REPO_DIR"/tools/gpu_check/*.sh "$root/share/gpu_check/"
cp -r "$REPO_DIR/slurm" "$REPO_DIR/configs" "$root/"
install -m 644 "$REPO_DIR"/docs/*.md "$root/docs/"
install -m 644 "$REPO_DIR/LICENSE" "$root/LICENSE"
sed -e "s|@VERSION@|$version|" -e "s|@GLIBC@|$(newest_glibc)|" -e "s|@CUDA@|$cuda|" "$REPO_DIR/tools/bundle/README" >"$root/README"

tarball="$output/$name.tar.$format"
log "compressing $(du -sh "$root" | cut -f 1)"
compress() { if [ "$format" = zst ]; then zstd -q -"${level:-19}" -T0; else gzip -"${level:-9}" -n; fi; }
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-0}" -cf - "$name" | compress >"$tarball.new"
mv "$tarball.new" "$tarball"
log "$(du -h --apparent-size "$tarball" | cut -f 1) in $tarball"
printf '%s\n' "$tarball"
