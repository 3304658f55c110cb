#!/usr/bin/env bash
# Resolve pyproject.toml's extras to exact versions, for every supported Python at once.
#
# CUDA's packages are left out: torch's own wheel pins them exactly, and a CPU build of torch needs none.
set -euo pipefail
bin=$1
cuda=(cuda-bindings cuda-pathfinder cuda-toolkit triton nvidia-cublas nvidia-cuda-cupti
  nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand
  nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink
  nvidia-nvshmem-cu13 nvidia-nvtx)
for extra in data parquet train pipeline dev; do
  "$bin/uv" pip compile pyproject.toml --extra "$extra" --universal --python-version 3.11 --quiet \
    --no-header --no-annotate --no-emit-package race-pipeline "${cuda[@]/#/--no-emit-package=}" \
    --output-file "requirements/$extra.txt"
done
