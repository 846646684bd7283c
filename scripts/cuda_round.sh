#!/usr/bin/env bash
# The CUDA round on a machine without network: scripts/cuda_round.sh FOLDER [PART ...]
# FOLDER is what scripts/cuda_wheels.sh made. Installs it under /tmp/site, runs `pytest -m cuda`, then the named parts of
# benchmarks/bench_cuda.py one by one, each for at most PART_SECONDS (150); logs and cuda.csv go to OUT (results/cuda).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:?give the folder with the wheels}
shift
out=${OUT:-results/cuda}
mkdir -p "$out" /tmp/site/libraries /tmp/site/names
python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target /tmp/site "$folder"/*.whl
tar -xJf "$folder/libraries.tar.xz" -C /tmp/site/libraries
ln -sfn "$PWD/src" /tmp/site/names/failure_directions
export PYTHONPATH=/tmp/site:/tmp/site/names:$PWD LD_LIBRARY_PATH=/tmp/site/libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PYTHONUNBUFFERED=1 TQDM_DISABLE=1

python3 -c "import torch, numpy, sklearn, transformers, timm, numba; print(torch.__version__, numpy.__version__,
    sklearn.__version__, transformers.__version__, timm.__version__, numba.__version__, torch.cuda.get_device_name())"
if [ -z "${NO_TESTS:-}" ]; then
    timeout "${TEST_SECONDS:-240}" python3 -W ignore -m pytest -m cuda -q --tb=short -p no:cacheprovider --durations=8 tests/test_cuda.py \
        > "$out/tests.log" 2>&1 || echo "tests: code $?"
    tail -n 60 "$out/tests.log"
fi
for part in "$@"; do
    echo "== $part, $SECONDS s"
    timeout "${PART_SECONDS:-150}" python3 -m benchmarks.bench_cuda "$part" --out "$out" ${BENCH_OPTIONS:-} \
        > "$out/$part.log" 2>&1 || echo "$part: code $?"
    grep ' | ' "$out/$part.log" || tail -n 15 "$out/$part.log"
done
