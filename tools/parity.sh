#!/usr/bin/env bash
# Our options beside GPTQModel's own code on small random layers: equal scales, codes and losses, and every checkpoint format
# unpacked (tools/parity/gptqmodel_parity.py says what is compared). Fails where the two disagree.
#
#   tools/parity.sh
#
# Not part of tools/test.sh: it needs about 6 GB for GPTQModel and PyTorch, and a minute.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

build_targets quantize_layer
python="$(make_venv venv-gptqmodel "$REPO_DIR/tools/bench/requirements-gptqmodel.txt")" ||
  die "the Python environment of GPTQModel could not be made"
"$python" "$REPO_DIR/tools/parity/gptqmodel_parity.py" --program "$BUILD_DIR/quantize_layer" |
  { grep '^|' || true; }  # it logs to the same stream
