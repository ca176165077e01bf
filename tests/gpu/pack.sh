#!/usr/bin/env bash
# On a machine with a network: everything that the GPU machine needs, in pieces under 60 MB.
#
#   tests/gpu/pack.sh DIR [PYTHON_VERSION] [ONNXRUNTIME_VERSION]
#
# The wheels of onnxruntime-gpu (CUDA 13, cuDNN 9 are to be there already, or come with torch), of
# graphfuse's dependencies and of pytest. The kernels are left out: they are for the CPU.
set -euo pipefail
dir=${1:?folder for the pieces}; python=${2:-3.12}; ort=${3:-1.31.1}
mkdir -p "$dir"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
platforms=()
for name in manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 \
  manylinux_2_24_x86_64 manylinux_2_5_x86_64 manylinux1_x86_64; do
  platforms+=(--platform "$name")
done
fetch() {
  python3 -m pip download -q --only-binary=:all: --python-version "$python" --implementation cp \
    "${platforms[@]}" -d "$work" "$@"
}
fetch --no-deps "onnxruntime-gpu==$ort"
fetch "onnx>=1.21" "onnx-graphsurgeon>=0.6" "numpy>=1.26" "typer>=0.16" "rich>=13" "pytest>=9" \
  ml_dtypes flatbuffers packaging
(cd "$work" && sha256sum -- *.whl) >"$dir/wheels.sha256"
for wheel in "$work"/*.whl; do
  split -b 58m -d "$wheel" "$dir/$(basename "$wheel").part"
done
ls -l "$dir"
