#!/usr/bin/env bash
# A bundle's run.py on an aarch64 Debian with python3 and numpy and nothing else, emulated, against the same model on this machine.
#
#   bash tests/aarch64_root.sh [ROOT [MODEL.onnx]]
#
# ROOT (default build/aarch64-root) is a folder for the Debian system: 0.4 GB, made on the first call through debootstrap, which needs
# root rights and the network. Needs debootstrap, dpkg-deb and qemu-aarch64 (Debian packages debootstrap, dpkg, qemu-user).
# Not part of tests/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
root=$(realpath -m "${1:-build/aarch64-root}")
model=${2:-examples/models/digits_cnn.onnx}
export PYTHONPATH=$PWD

for tool in qemu-aarch64 "$python"; do
    command -v "$tool" >/dev/null || { echo "aarch64_root.sh needs $tool" >&2; exit 1; }
done

PYTHON=$python bash tests/benchmarks/aarch64_debian.sh "$root"
device() { env -u PYTHONPATH qemu-aarch64 -cpu cortex-a72 -L "$root" "$root/usr/bin/python3" "$@"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for target in host cortex-a72 cortex-a76; do "$python" -m edgec build "$model" --target "$target" -o "$work/$target.edgec" --progress none >"$work/log"; done
"$python" - "$work" <<'EOF'
import sys
import numpy as np
import edgec
from edgec.samples import draw
work = sys.argv[1]
host, emulated = (edgec.load(f"{work}/{target}.edgec") for target in ("host", "cortex-a72"))
given = draw(host.inputs, 1, {k: tuple(v) for k, v in host.manifest["input_ranges"].items()})
for port, facts in zip(host.inputs, host.manifest["inputs"], strict=True):
    np.save(f"{work}/{facts['c_name']}.npy", given[port.name])
np.savez(f"{work}/host.npz", **host.run(given))
np.savez(f"{work}/emulated.npz", **emulated.run(given))
EOF
words=$("$python" -c "
import json, sys
print(*(f\"{p['name']}=$work/{p['c_name']}.npy\" for p in json.load(open('$work/cortex-a72.edgec/manifest.json'))['inputs']))")

device -c 'import platform, sys, numpy; print("device:", platform.machine(), "Python", sys.version.split()[0], "numpy", numpy.__version__)'
for threads in 1 3; do
    # shellcheck disable=SC2086  # one word for each input
    device "$work/cortex-a72.edgec/run.py" $words --threads "$threads" --out "$work/out$threads"
done
"$python" - "$work" <<'EOF'
import json
import sys
import numpy as np
work = sys.argv[1]
host, emulated = np.load(f"{work}/host.npz"), np.load(f"{work}/emulated.npz")
for port in json.load(open(f"{work}/cortex-a72.edgec/manifest.json"))["outputs"]:
    one, three = (np.load(f"{work}/out{threads}/{port['c_name']}.npy") for threads in (1, 3))
    here = host[port["name"]]
    assert one.tobytes() == three.tobytes() == emulated[port["name"]].tobytes(), f"{port['name']}: the bits differ"
    distance = np.abs(one.astype(np.float64) - here).max()
    assert distance <= 1e-4 * np.abs(here).max(), f"{port['name']} is {distance} away from the host's"
    print(f"{port['name']}: the same bits for 1 and 3 threads and in edgec's own Session; at most {distance:.2g} from the host, "
          f"whose largest number is {np.abs(here).max():.3g}")
EOF
if device "$work/cortex-a76.edgec/run.py" 2>"$work/refused"; then echo 'a cortex-a76 bundle ran on a cortex-a72' >&2; exit 1; fi
grep -E '^run\.py: this processor lacks [a-z0-9]+, which the model needs$' "$work/refused"
echo ok
