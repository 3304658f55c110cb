#!/usr/bin/env bash
# Collect in one folder what a machine with torch and numpy, and no package registry, lacks to train.
set -euo pipefail
python=$1 folder=$2 most=$((60 * 1024)) # KiB; 64 MiB may travel, the repository with them
cd "$(dirname "$0")/.."
bash requirements/preflight.sh "$python"
rm -rf "$folder" "$folder-venv" && mkdir -p "$folder"
"$python" -m venv "$folder-venv"
pip=("$folder-venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install --quiet --requirement requirements/build.txt
wheel=("${pip[@]}" wheel --quiet --no-deps --wheel-dir "$folder" --build-constraint requirements/build.txt)
"${wheel[@]}" --constraint requirements/train.txt --requirement requirements/gpu-wheels.txt
"${wheel[@]}" --requirement requirements/fairseq.txt
size=$(du -sk "$folder" | cut -f1)
[ "$size" -le "$most" ] || { echo "error: $folder has $size KiB, more than $most may travel" >&2; exit 1; }
echo "$((size / 1024)) MiB for $("$python" -V) in $folder; there: python -m pip install --no-index --no-deps $folder/*.whl"
