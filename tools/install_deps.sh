#!/usr/bin/env bash
# Installs, through apt-get, the packages that building and testing need and that are missing. Nothing is downloaded
# where all are there.
#
#   tools/install_deps.sh          # build and test
#   tools/install_deps.sh --demo   # also debian-handbook, whose text the quickstart and the benchmarks use
#   tools/install_deps.sh --slurm  # also, where they can be had, slurm-wlm and munge, which the Slurm tests start
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

packages=(
  g++ cmake ninja-build ccache
  openmpi-bin libopenmpi-dev libhdf5-dev hdf5-tools libdnnl-dev libopenblas-dev liblapacke-dev libssl-dev
  libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libspdlog-dev libfmt-dev libgtest-dev libgmock-dev
  python3-venv
  patchelf zstd busybox-static  # tools/bundle.sh and its test
)
slurm_packages=(slurm-wlm slurm-wlm-basic-plugins munge)
demo=false slurm=false
for option in "$@"; do
  case "$option" in
    --demo) demo=true ;;
    --slurm) slurm=true ;;
    *) die "unknown option $option; usage: tools/install_deps.sh [--demo] [--slurm]" ;;
  esac
done

is_installed() {
  [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
wants_handbook=false
if $demo && [ -z "$(handbook_directory)" ]; then
  wants_handbook=true
fi

missing_slurm=()
if $slurm; then
  for package in "${slurm_packages[@]}"; do
    is_installed "$package" || missing_slurm+=("$package")
  done
fi

if [ "${#missing[@]}" -eq 0 ] && [ "${#missing_slurm[@]}" -eq 0 ] && ! $wants_handbook; then
  log "all needed packages are installed"
  exit 0
fi

command -v apt-get >/dev/null || die "apt-get not found; install what these Debian packages hold: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; }; then
    as_root=(sudo)
  elif [ "${#missing[@]}" -gt 0 ]; then
    die "not root and no sudo; ask the administrator for: apt-get install ${missing[*]}"
  fi
fi

try_packages() {
  log "installing $*"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}

install_packages() { try_packages "$@" || die "apt-get could not install: $*"; }

updated=false
update_lists() {
  $updated && return
  "${as_root[@]}" apt-get update || log "apt-get update failed; going on with the lists at hand"
  updated=true
}

if [ "${#missing[@]}" -gt 0 ]; then
  update_lists
  install_packages "${missing[@]}"
fi

# Slurm is for tests that say themselves when they were left out; they start daemons of their own.
if [ "${#missing_slurm[@]}" -gt 0 ]; then
  if [ "$(id -u)" -eq 0 ] || [ "${#as_root[@]}" -gt 0 ]; then
    update_lists
    try_packages "${missing_slurm[@]}" || log "WARNING: Slurm could not be installed; its tests will be skipped"
  else
    log "WARNING: no right to install Slurm; its tests will be skipped"
  fi
fi

# Minimal images tell dpkg to leave documentation out, and an ordinary user cannot install: the package's files are
# then unpacked into the cache, which needs no rights.
if $wants_handbook; then
  folder="$CACHE_DIR/debian-handbook"
  log "unpacking debian-handbook into $folder"
  mkdir -p "$folder"
  if [ "$(id -u)" -eq 0 ] || [ "${#as_root[@]}" -gt 0 ]; then
    update_lists
  fi
  (cd "$folder" && apt-get download debian-handbook) \
    || die "debian-handbook could not be downloaded; ask the administrator for: apt-get install debian-handbook"
  rm -rf "$folder/unpacked.new"
  dpkg -x "$folder"/debian-handbook_*.deb "$folder/unpacked.new"
  rm -rf "$folder/unpacked" "$folder"/debian-handbook_*.deb
  mv "$folder/unpacked.new" "$folder/unpacked"
  [ -n "$(handbook_directory)" ] || die "debian-handbook holds no English HTML pages"
fi
log "all needed packages are installed"
