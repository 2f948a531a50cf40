#!/bin/sh
# Measures promptmill on a GPU; see the README beside this. `benchmarks/gpu.sh --help` lists the options.
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH=. PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_WAIT_POLICY=PASSIVE
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
