#!/usr/bin/env bash
# Collects what a machine with a CUDA card, Python 3.12 and torch but without network lacks: scripts/cuda_wheels.sh FOLDER
# Wheels of requirements.txt's versions, ffcv compiled here (PYTHON, by default python3.12) and the system's libraries
# that it links to. About 27 MB. `scripts/cuda_round.sh FOLDER` uses them there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:?give the folder that the wheels go to}
python=${PYTHON:-python3.12}
pinned() { grep -Eo "^($1)==[^ ]+" requirements.txt; }

mkdir -p "$folder"
platforms=(--platform any)
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done
pinned 'open_clip_torch|ftfy|wcwidth|pydantic|pydantic_core|annotated-types|typing-inspection|diffusers|scikit-learn' |
    xargs "$python" -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        "${platforms[@]}" --dest "$folder"
pinned 'importlib_metadata|fastargs|pytorch-pfn-extras|terminaltables|assertpy|ffcv' |
    xargs "$python" -m pip wheel --no-deps --wheel-dir "$folder"

libraries=$(mktemp -d)
trap 'rm -rf "$libraries"' EXIT
"$python" -m zipfile -e "$folder"/ffcv-*.whl "$libraries/wheel"
# The C and C++ runtimes are the other machine's own.
ldd "$libraries"/wheel/ffcv/_libffcv*.so | awk '/=>/ {print $3}' |
    grep -Ev '/lib(c|m|z|stdc\+\+|gcc_s)\.so|/ld-linux' | xargs cp -Lt "$libraries"
rm -rf "$libraries/wheel"
tar -cJf "$folder/libraries.tar.xz" -C "$libraries" .
du -sh "$folder"
