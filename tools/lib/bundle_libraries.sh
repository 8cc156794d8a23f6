# shellcheck shell=bash disable=SC2154
# The shared libraries of a bundle; sourced by tools/bundle.sh, which sets `root`, `build` and `with_cuda`.

# What every Linux has (glibc) or what belongs to the node's driver.
SYSTEM_LIBRARIES='^(ld-linux.*|linux-vdso|libc|libm|libdl|librt|libpthread|libutil|libresolv|libnsl|libanl|libcuda|libnvidia-.*)\.so'
CUDA_LIBRARIES='^(libcudart|libcublas|libcublasLt|libcusolver|libcusolverMg|libcusparse|libnvJitLink|libnccl|libnvrtc|libnvToolsExt|libcudnn.*)\.so'

elf_files() {
  find "$root" -type f -print0 | while IFS= read -r -d '' file; do
    [ "$(head -c 4 "$file" | tr -d '\0')" != $'\x7fELF' ] || printf '%s\n' "$file"
  done
}

strip_all() { elf_files | while IFS= read -r file; do strip --strip-unneeded "$file"; done; }

# libraries_of FILE...: "name path" of every library that they need, directly or not.
libraries_of() {
  ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 == "not" { print $1, "missing" } $2 == "=>" && $3 ~ /^\// { print $1, $3 }' | sort -u
}

add_libraries() {
  local file library path cuda=()
  # shellcheck disable=SC2046
  while read -r library path; do
    [[ ! "$library" =~ $SYSTEM_LIBRARIES ]] || continue
    if [[ "$library" =~ $CUDA_LIBRARIES ]]; then
      cuda+=("$library")
      $with_cuda || continue
      [ "$path" != missing ] || die "$library is needed, and is not on this machine"
      mkdir -p "$root/lib/cuda"
      install -m 755 "$path" "$root/lib/cuda/$library"
      continue
    fi
    [ "$path" != missing ] || die "$library is needed, and is not on this machine"
    [ -e "$root/lib/$library" ] || install -m 755 "$path" "$root/lib/$library"
    add_licence "$path"
  done < <(libraries_of $(elf_files))
  for file in "$root"/lib/*.so*; do strip --strip-unneeded "$file"; done
  [ "${#cuda[@]}" -eq 0 ] || printf '%s\n' "${cuda[@]}" >"$root/share/cuda-libraries"
}

# The licence that the distribution keeps beside a library's package.
add_licence() {
  local package
  package="$(dpkg-query --search "$(readlink -f "$1")" 2>/dev/null | sed -n 1p | cut -d : -f 1)" || return 0
  [ -z "$package" ] || [ ! -r "/usr/share/doc/$package/copyright" ] || cp -L "/usr/share/doc/$package/copyright" "$root/share/licenses/$package"
}

# Every file finds its libraries from where it lies itself. RPATH, not RUNPATH: a site's LD_LIBRARY_PATH must not slip
# another MPI under this one.
set_search_paths() {
  local file up
  elf_files | while IFS= read -r file; do
    case "${file#"$root"/}" in
      lib/cuda/*) continue ;;
      lib/*/*) up='$ORIGIN/..' ;;
      lib/*) up='$ORIGIN' ;;
      *) up='$ORIGIN/../lib' ;;
    esac
    patchelf --force-rpath --set-rpath "$up" "$file"
  done
}

# The newest version of glibc's symbols that anything here uses.
newest_glibc() {
  elf_files | xargs objdump -T 2>/dev/null | grep -o 'GLIBC_2[.0-9]*' | sort -Vu | tail -n 1 | cut -d _ -f 2
}
