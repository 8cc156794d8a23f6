#!/usr/bin/env bash
# Quantizes the demonstration model on 1, 2, 3 and 4 ranks with 1 and 2 threads each and compares the bytes of the outputs.
#
#   tools/same_bytes.sh [SAMPLES]     # default: 32 calibration samples of 512 tokens
#
# Not part of tools/test.sh, whose tests do the same with small models.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/lib/demo.sh"

samples="${1:-32}"
folder="$CACHE_DIR/same-bytes"

"$REPO_DIR/tools/install_deps.sh" --demo
build_targets gptq-hpc
prepare_demo
make_samples calibration "$DEMO_DIR/calibration.h5" --nsamples 32 --seqlen 512

first="" failed=false
for ranks in 1 2 3 4; do
  for threads in 1 2; do
    output="$folder/$ranks-$threads"
    rm -rf "$output"
    mpirun --bind-to none -n "$ranks" "$GPTQ_HPC" quantize "$REPO_DIR/configs/quickstart.yaml" "${DEMO_PATHS[@]}" \
      --set "output.path=$output" --set "compute.threads=$threads" --set "calibration.num_samples=$samples" \
      --set log.progress=none --set log.level=warn >"$folder.log"
    hash="$(sha256sum "$output/manifest.json" | cut -c 1-64)" # it holds the hashes of all other files
    [ -n "$first" ] || first="$hash"
    if [ "$hash" = "$first" ]; then verdict=same; else verdict=DIFFERENT failed=true; fi
    printf '%s ranks x %s threads: manifest %s  %s\n' "$ranks" "$threads" "${hash:0:16}" "$verdict"
    [ "$output" = "$folder/1-1" ] || rm -rf "$output"
  done
done
! $failed || die "the outputs differ"
log "all outputs have the same bytes"
