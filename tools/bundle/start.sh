#!/bin/sh
# Starts the program of this name in libexec/ with the bundle's libraries and MPI.
file="$0"
case "$file" in */*) ;; *) file="$(command -v "$file")" ;; esac
while [ -L "$file" ]; do
  link="$(readlink "$file")"
  case "$link" in /*) file="$link" ;; *) file="${file%/*}/$link" ;; esac
done
GPTQ_HPC_BUNDLE="$(cd -P "${file%/*}/.." && pwd)"
. "$GPTQ_HPC_BUNDLE/env.sh"
exec "$GPTQ_HPC_BUNDLE/libexec/${file##*/}" "$@"
