# shellcheck shell=bash disable=SC2154
# Open MPI inside a bundle; sourced by tools/bundle.sh, which sets `root` and add_program.

# Parts that need hardware or servers which are not in every cluster (InfiniBand, Omni-Path, Flux), or that the job does
# not use (MPI-IO, OpenSHMEM, monitoring). A site with such a fabric builds against its own MPI.
LEFT_OUT='_(ofi|openib|psm|psm2|ucx|monitoring|flux|jsm|simulator|bzip|ompio|romio[0-9]*|ufs|posix_fbtl|pstrg)\.so$|/mca_(fbtl|fcoll|fs|io|sharedfp|atomic|memheap|scoll|spml|sshmem|crs|vprotocol|compress)_|dbg_msgq'

# ompi_path KEY: a directory as ompi_info tells it.
ompi_path() { ompi_info --path all --parsable | awk -F : -v key="$1" '!found && $1 == "path" && $2 == key { print $3; found = 1 }'; }

add_mpi() {
  local component library pmix
  [[ "$(mpirun --version 2>&1 | sed -n 1p)" == *"Open MPI) 4.1."* ]] \
    || die "bundles are made with Open MPI 4.1; this machine has: $(mpirun --version 2>&1 | sed -n 1p)"
  add_program "$(readlink -f "$(command -v mpirun)")" mpirun
  add_program "$(readlink -f "$(command -v orted)")" orted
  mkdir -p "$root/lib/openmpi" "$root/lib/pmix" "$root/share/openmpi" "$root/share/pmix"
  for component in "$(ompi_path pkglibdir)"/mca_*.so; do
    [[ "$component" =~ $LEFT_OUT ]] || install -m 644 "$component" "$root/lib/openmpi/"
  done
  install -m 644 "$(ompi_path pkgdatadir)"/help-*.txt "$root/share/openmpi/"
  # Nothing of /etc/openmpi holds for this copy.
  printf '# MCA parameters of this bundle, as "name = value".\n' >"$root/etc/openmpi/openmpi-mca-params.conf"
  # PMIx keeps parts and messages beside its library.
  library="$(ldd "$root"/lib/openmpi/mca_pmix_ext3x.so 2>/dev/null | awk '$1 ~ /^libpmix\.so/ { print $3 }')"
  [ -n "$library" ] || return 0
  pmix="$(dirname "$(readlink -f "$library")")"
  for component in "$pmix"/pmix/pmix_mca_*.so; do
    [ ! -e "$component" ] || install -m 644 "$component" "$root/lib/pmix/"
  done
  for component in "$pmix"/../share/pmix/help-*.txt; do
    [ ! -e "$component" ] || install -m 644 "$component" "$root/share/pmix/"
  done
  : >"$root/etc/pmix/pmix-mca-params.conf"
}
