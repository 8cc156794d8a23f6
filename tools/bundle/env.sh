# shellcheck shell=sh
# Sets up the environment of this bundle: source it, from any shell, wherever the bundle was unpacked. The programs in
# bin/ do it themselves. From a plain sh, which does not know the name of a sourced file, set GPTQ_HPC_BUNDLE first.

gptq_hpc_root() {
  if [ -n "${BASH_VERSION:-}" ]; then
    eval 'gptq_hpc_file="${BASH_SOURCE[0]}"'
  elif [ -n "${ZSH_VERSION:-}" ]; then
    eval 'gptq_hpc_file="${(%):-%x}"'
  else
    gptq_hpc_file="${GPTQ_HPC_BUNDLE:-.}/env.sh"
  fi
  case "$gptq_hpc_file" in
    */*) gptq_hpc_file="${gptq_hpc_file%/*}" ;;
    *) gptq_hpc_file=. ;;
  esac
  GPTQ_HPC_BUNDLE="$(cd -P "$gptq_hpc_file" && pwd)"
  export GPTQ_HPC_BUNDLE
  unset gptq_hpc_file
}

# gptq_hpc_places: folders in which a node may keep CUDA's libraries, one a line, the most telling first.
gptq_hpc_places() {
  printf '%s\n' "$GPTQ_HPC_BUNDLE/lib/cuda"
  gptq_hpc_tree="${LD_LIBRARY_PATH:-}:"
  while [ -n "$gptq_hpc_tree" ]; do
    printf '%s\n' "${gptq_hpc_tree%%:*}"
    gptq_hpc_tree="${gptq_hpc_tree#*:}"
  done
  for gptq_hpc_tree in "${CUDA_HOME:-}" "${CUDA_PATH:-}" "${CUDA_ROOT:-}" "${NCCL_HOME:-}" /usr/local/cuda \
    /usr/local/cuda-[1-9]* /opt/cuda /opt/nvidia/hpc_sdk/Linux_x86_64/*/cuda /usr; do
    [ -n "$gptq_hpc_tree" ] || continue
    for gptq_hpc_leaf in lib64 targets/x86_64-linux/lib lib lib/x86_64-linux-gnu; do
      printf '%s\n' "$gptq_hpc_tree/$gptq_hpc_leaf"
    done
  done
}

# The libraries that come with Python packages (PyTorch's, for instance) do as well.
gptq_hpc_python_places() {
  for gptq_hpc_python in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python3}" python3 /opt/*/bin/python3 /opt/*/.venv/bin/python3; do
    [ -n "$gptq_hpc_python" ] && command -v "$gptq_hpc_python" >/dev/null 2>&1 || continue
    "$gptq_hpc_python" -c '
import glob, sys
for place in sys.path:
    for folder in sorted(glob.glob(place + "/nvidia/*/lib")):
        print(folder)' 2>/dev/null
  done
}

# gptq_hpc_seek LIBRARY: reads places, prints the first that holds the library.
gptq_hpc_seek() {
  while IFS= read -r gptq_hpc_place; do
    if [ -n "$gptq_hpc_place" ] && [ -e "$gptq_hpc_place/$1" ]; then
      printf '%s\n' "$gptq_hpc_place"
      return
    fi
  done
}

# Adds to LD_LIBRARY_PATH where the libraries of share/cuda-libraries are. A name that is found nowhere is left to the
# dynamic linker, whose message tells it.
gptq_hpc_find_cuda() {
  [ -r "$GPTQ_HPC_BUNDLE/share/cuda-libraries" ] || return 0
  [ "${GPTQ_HPC_CUDA_FOUND:-}" != "$GPTQ_HPC_BUNDLE" ] || return 0 # by the parent process
  gptq_hpc_near="$(gptq_hpc_places)"
  gptq_hpc_far=unknown
  while IFS= read -r gptq_hpc_name; do
    gptq_hpc_found="$(printf '%s\n' "$gptq_hpc_near" | gptq_hpc_seek "$gptq_hpc_name")"
    if [ -z "$gptq_hpc_found" ]; then
      [ "$gptq_hpc_far" != unknown ] || gptq_hpc_far="$(gptq_hpc_python_places)"
      gptq_hpc_found="$(printf '%s\n' "$gptq_hpc_far" | gptq_hpc_seek "$gptq_hpc_name")"
    fi
    # The system's own folders are searched anyway, and would hide what others hold.
    case "$gptq_hpc_found" in "" | /usr/lib*) continue ;; esac
    case ":${LD_LIBRARY_PATH:-}:" in
      *":$gptq_hpc_found:"*) ;;
      *) LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$gptq_hpc_found" ;;
    esac
  done <"$GPTQ_HPC_BUNDLE/share/cuda-libraries"
  GPTQ_HPC_CUDA_FOUND="$GPTQ_HPC_BUNDLE"
  export GPTQ_HPC_CUDA_FOUND
  [ -z "${LD_LIBRARY_PATH:-}" ] || export LD_LIBRARY_PATH
  unset gptq_hpc_near gptq_hpc_far gptq_hpc_name gptq_hpc_found
}

gptq_hpc_root
case ":${PATH:-}:" in
  *":$GPTQ_HPC_BUNDLE/bin:"*) ;;
  *) PATH="$GPTQ_HPC_BUNDLE/bin:${PATH:-/usr/local/bin:/usr/bin:/bin}" ;;
esac
export PATH
# Where Open MPI and PMIx find their parts, in place of where they were built for.
export OPAL_PREFIX="$GPTQ_HPC_BUNDLE" OPAL_LIBDIR="$GPTQ_HPC_BUNDLE/lib" OPAL_PKGLIBDIR="$GPTQ_HPC_BUNDLE/lib/openmpi"
export OPAL_DATADIR="$GPTQ_HPC_BUNDLE/share" OPAL_PKGDATADIR="$GPTQ_HPC_BUNDLE/share/openmpi"
export OPAL_SYSCONFDIR="$GPTQ_HPC_BUNDLE/etc/openmpi"
export PMIX_PREFIX="$GPTQ_HPC_BUNDLE" PMIX_PKGLIBDIR="$GPTQ_HPC_BUNDLE/lib/pmix"
export PMIX_PKGDATADIR="$GPTQ_HPC_BUNDLE/share/pmix" PMIX_SYSCONFDIR="$GPTQ_HPC_BUNDLE/etc/pmix"
# Without ssh, mpirun serves this node alone (or Slurm's); it would refuse even that while it looks for ssh.
command -v ssh >/dev/null 2>&1 || command -v rsh >/dev/null 2>&1 || export OMPI_MCA_plm="${OMPI_MCA_plm:-^rsh}"
gptq_hpc_find_cuda
