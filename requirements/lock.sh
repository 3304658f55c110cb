#!/usr/bin/env bash
# Resolve pyproject.toml's groups to exact versions and the hashes of their files, for every supported
# Python at once.
#
# torch has no hash: CUDA's build and the CPU's are other files, from wherever the user's pip finds them.
# CUDA's packages are left out: torch's own wheel pins them exactly, and a CPU build of torch needs none.
set -euo pipefail
bin=$1
apart=(race-pipeline torch cuda-bindings cuda-pathfinder cuda-toolkit triton nvidia-cublas
  nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile
  nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13
  nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx)
lock() { # NAME ARGUMENT...
  "$bin/uv" pip compile --universal --python-version 3.11 --generate-hashes --quiet --no-header \
    --no-annotate "${apart[@]/#/--no-emit-package=}" --output-file "requirements/$1.txt" "${@:2}"
}
lock build --group build
lock fairseq --group fairseq --no-deps
lock data --group data
lock train --group train
lock parquet --group parquet
lock pipeline pyproject.toml
lock dev pyproject.toml --group dev
grep -o 'torch==[0-9.]*' pyproject.toml >requirements/torch.txt
