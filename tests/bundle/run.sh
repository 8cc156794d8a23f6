#!/usr/bin/env bash
# Makes a bundle, unpacks it into a root directory that holds the C library, a shell and nothing else, and uses it there:
# plans, quantizes and evaluates a small model on 1 and 2 ranks with the bundle's own mpirun; then the same after the
# folder was moved. Exit code 77 where this machine does not let a test change its root.
#
#   tests/bundle/run.sh BUILD_DIR
set -euo pipefail
build="$(cd "${1:?build directory}" && pwd)"
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

skip() { echo "skipped: $*" && exit 77; }
fail() { echo "FAILED: $*" && exit 1; }

command -v patchelf >/dev/null || skip "no patchelf"
busybox="$(command -v busybox || true)"
[ -n "$busybox" ] || skip "no busybox"
! ldd "$busybox" >/dev/null 2>&1 || skip "busybox needs shared libraries (busybox-static does not)"
isolate=(unshare --mount --pid --fork --kill-child)
[ "$(id -u)" -eq 0 ] || isolate+=(--map-root-user)
"${isolate[@]}" true 2>/dev/null || skip "this machine forbids namespaces of one's own"

work="$(mktemp -d "${TMPDIR:-/tmp}/gptq-hpc-bundle-XXXXXX")"
trap 'rm -rf "$work"' EXIT

tarball="$("$repository/tools/bundle.sh" --build "$build" --output "$work" --level 1 | tail -n 1)"
[ -f "$tarball" ] || fail "no tarball"

# The root: glibc's loader and libraries from here, a shell with its tools, empty /tmp, and the kernel's views.
root="$work/root"
mkdir -p "$root"/{bin,lib64,lib/x86_64-linux-gnu,tmp,proc,sys,dev,etc,opt,elsewhere}
cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
for library in libc libm libdl librt libpthread libutil libresolv; do
  path="$(ldconfig -p | awk -v name="$library" '!found && $1 ~ "^" name "\\.so\\.[0-9]$" && /x86-64/ { print $NF; found = 1 }')"
  [ -z "$path" ] || cp -L "$path" "$root/lib/x86_64-linux-gnu/"
done
cp "$busybox" "$root/bin/busybox"
for tool in sh ls cat grep cmp env awk sed rm mv mkdir hostname; do ln -s busybox "$root/bin/$tool"; done
printf 'root:x:0:0::/tmp:/bin/sh\n' >"$root/etc/passwd"
printf '127.0.0.1 localhost %s\n' "$(hostname)" >"$root/etc/hosts"
tar -C "$root/opt" -xf "$tarball" || fail "the tarball does not unpack"
bundle="$(basename "$root"/opt/gptq-hpc-*)"

cat >"$root/inside.sh" <<'INSIDE'
set -eu
B="$1"
T="/tmp/$2"
mkdir -p "$T"
"$B/bin/gptq-hpc" --version
"$B/bin/make_synthetic_model" --shape tiny --calibration "$T/c.h5" --samples 6 --tokens 64 --eval "$T/e.h5" --eval-samples 4 "$T/model"
cat >"$T/job.yaml" <<JOB
model: {path: $T/model}
calibration: {path: $T/c.h5}
output: {path: $T/out}
eval: {data: [$T/e.h5]}
compute: {backend: cpu, threads: 1}
log: {progress: none}
JOB
"$B/bin/gptq-hpc" plan "$T/job.yaml" >"$T/plan.txt"
"$B/bin/gptq-hpc" quantize "$T/job.yaml"
"$B/bin/mpirun" --oversubscribe -n 2 "$B/bin/gptq-hpc" quantize "$T/job.yaml" --set output.path="$T/out2"
cmp "$T/out/manifest.json" "$T/out2/manifest.json"
"$B/bin/mpirun" --oversubscribe -n 4 "$B/bin/gptq-hpc" eval "$T/job.yaml"
"$B/bin/gptq-hpc" verify "$T/out2"
"$B/bin/gptq-hpc" inspect "$T/out2" >"$T/inspect.txt"
# Sourced, as the README says; the program then comes from PATH.
(GPTQ_HPC_BUNDLE="$B" && . "$B/env.sh" && gptq-hpc --version && mpirun --oversubscribe -n 2 gptq-hpc --version) >"$T/sourced.txt"
[ "$(grep -c '^gptq-hpc ' "$T/sourced.txt")" -eq 2 ]
INSIDE

# inside BUNDLE NAME: runs the script with nothing of this machine but its kernel.
inside() {
  # shellcheck disable=SC2016
  timeout 500 "${isolate[@]}" bash -c '
    root="$1"; shift
    mount --rbind /dev "$root/dev" && { mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"; }
    mount --rbind /sys "$root/sys" || exit 78
    exec env -i PATH=/bin HOME=/tmp OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 \
      "$(command -v chroot)" "$root" /bin/sh /inside.sh "$@"' bash "$root" "$@"
}

code=0
inside "/opt/$bundle" first || code=$?
[ "$code" -ne 78 ] || skip "this machine forbids mounts"
[ "$code" -eq 0 ] || fail "the bundle does not work in an empty root (exit code $code)"
mv "$root/opt/$bundle" "$root/elsewhere/moved here"
inside "/elsewhere/moved here" second || fail "the bundle does not work after it was moved"
cmp "$root/tmp/first/out/manifest.json" "$root/tmp/second/out/manifest.json" || fail "another place, other bytes"

# With what a user's shell may carry: another MPI's settings and libraries first in the path.
moved="$root/elsewhere/moved here"
env LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu OPAL_PREFIX=/nonexistent OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
  "$moved/bin/mpirun" --oversubscribe -n 2 "$moved/bin/gptq-hpc" --version | grep -c '^gptq-hpc ' | grep -qx 1 || fail "LD_LIBRARY_PATH gets under the bundle"
echo "passed: $(du -h --apparent-size "$tarball" | cut -f 1), quickly compressed"
