#!/usr/bin/env bash
# From a fresh clone to a neural network compiled for two machines: bash examples/run.sh
# Needs python3 >= 3.11 with pip and nothing else. Everything is put into .venv and build/; the second time is quick.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

model=examples/models/digits_cnn.onnx
images=examples/models/digits_test.npz

bash .ci/venv cross
.venv/bin/python -c 'import onnxruntime' 2>/dev/null || .venv/bin/python -m pip install --quiet onnxruntime  # only to compare with

mkdir -p build
for target in host cortex-a72; do
    bundle=build/digits_cnn.$target.edgec
    echo
    echo "== edgec build $model --target $target"
    .venv/bin/edgec build "$model" --target "$target" -o "$bundle"
    if [ "$target" = host ] || command -v qemu-aarch64 >/dev/null || [ "$(uname -m)" = aarch64 ]; then
        .venv/bin/python examples/accuracy.py "$bundle" "$model" "$images"
    else
        echo "  not run here: this machine has no qemu-aarch64 (Debian package qemu-user)"
    fi
done
