#!/usr/bin/env bash
# The whole CUDA story on a machine with an NVIDIA GPU and without a network.
#
#   tests/gpu/pack.sh pieces                      before, where there is a network
#   tests/gpu/run.sh keep pieces                  as often as it takes to bring all pieces
#   tests/gpu/run.sh run [OUTPUT_DIR] [PARTS]     join them, install beside, test, measure
#   tests/gpu/run.sh dry [OUTPUT_DIR]             the same steps, small, on the CPU of any machine
#
# STORE (default graphfuse-gpu in the folder for temporary files) keeps the pieces between calls. PYTHON names the interpreter; it
# should have torch built for CUDA 13, or CUDA's and cuDNN's libraries where the system finds them.
# PARTS are of `strict sites accuracy models`, all of them if none is named. `strict` compares the
# kernels with graphfuse/planning/faults.json; it is worth a run with the wheels of 1.22, 1.24, 1.26, 1.27 and
# the newest (pack.sh takes the version), each in a STORE of its own.
# OUTPUT_DIR gets gpu.md (tables with GPU, driver and versions), tests.log and env.log.
set -euo pipefail
cd "$(dirname "$0")/../.."
store=${STORE:-${TMPDIR:-/tmp}/graphfuse-gpu}; python=${PYTHON:-python3}
site=$store/site

install() {
  [ -f "$site/.done" ] && return
  mkdir -p "$store/wheels" "$site"
  for first in "$store"/pieces/*.whl.part00; do
    wheel=$(basename "${first%.part00}")
    cat "$store/pieces/$wheel".part* >"$store/wheels/$wheel"
  done
  (cd "$store/wheels" && sha256sum --check --quiet "$store/pieces/wheels.sha256")
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$store"/wheels/*.whl
  touch "$site/.done"
}

tell() {
  nvidia-smi || echo "no nvidia-smi"
  "$python" -m graphfuse env
  "$python" -c 'import onnxruntime as ort; print(ort.__file__, ort.get_available_providers())'
}

case ${1:-} in
keep)
  mkdir -p "$store/pieces"
  cp "${2:?folder of pieces}"/* "$store/pieces/"
  ls -l "$store/pieces"
  ;;
run)
  out=${2:-gpu-results}; mkdir -p "$out"
  install
  # First on the path: a CPU wheel of onnxruntime must not stand before the GPU's.
  export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
  tell 2>&1 | tee "$out/env.log"
  status=0
  "$python" -m pytest -q -p no:cacheprovider -m cuda tests/test_cuda.py 2>&1 | tee "$out/tests.log" || status=1
  parts=(); for part in "${@:3}"; do parts+=(--part "$part"); done
  "$python" -m tests.gpu --output "$out/gpu.md" ${parts[@]+"${parts[@]}"} || status=1
  exit $status
  ;;
dry)
  out=${2:-$(mktemp -d)}; mkdir -p "$out"
  tell 2>&1 | tee "$out/env.log"
  "$python" -m pytest -q -p no:cacheprovider -m cuda tests/test_cuda.py 2>&1 | tee "$out/tests.log"
  "$python" -m tests.gpu --output "$out/gpu.md" --dry-run
  ;;
*)
  sed -n '2,17s/^# \{0,1\}//p' "$0"
  exit 2
  ;;
esac
