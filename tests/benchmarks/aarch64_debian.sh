#!/usr/bin/env bash
# A Debian system for aarch64 with python3 and numpy, unpacked into a folder:   bash tests/benchmarks/aarch64_debian.sh ROOT [PEER …]
#
# 0.4 GB, through debootstrap, which needs root rights and the network; nothing happens when it is there already. For each of the peers
# onnxruntime, litert and ncnn, the wheel of the version that .venv has is put into ROOT/opt/PEER, with numpy. Needs debootstrap and dpkg-deb (Debian packages debootstrap, dpkg).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-.venv/bin/python}
root=$(realpath -m "$1")

# Nothing of the foreign system can run while it is made, so its packages are only unpacked, and the links that their scripts would
# make are made here.
libraries=$root/usr/lib/aarch64-linux-gnu
if [ ! -e "$libraries/liblapack.so.3" ]; then
    for tool in debootstrap dpkg-deb; do command -v "$tool" >/dev/null || { echo "aarch64_debian.sh needs $tool" >&2; exit 1; }; done
    [ -d "$root/var/cache/apt/archives" ] || debootstrap --foreign --arch=arm64 --variant=minbase --include=python3,python3-numpy bookworm "$root"
    for package in "$root"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    ln -sf blas/libblas.so.3 "$libraries/libblas.so.3"
    ln -sf lapack/liblapack.so.3 "$libraries/liblapack.so.3"
fi
[ $# -gt 1 ] || exit 0

# ONNX Runtime looks for a processor in /proc and /sys, and crashes where it finds another architecture's; XNNPACK and ncnn choose kernels
# by what they find. qemu reads these first.
mkdir -p "$root/proc" "$root/sys/devices/system/cpu"
printf 'processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n' >"$root/proc/cpuinfo"
echo 0 | tee "$root/sys/devices/system/cpu/possible" >"$root/sys/devices/system/cpu/present"
for peer in "${@:2}"; do
    case $peer in
        onnxruntime | ncnn) package=$peer ;;
        litert) package=ai-edge-litert ;;
        *) echo "aarch64_debian.sh knows onnxruntime, litert and ncnn, not $peer" >&2; exit 2 ;;
    esac
    [ ! -d "$root/opt/$peer" ] || continue
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    version=$("$python" -c "import importlib.metadata as m; print(m.version('$package'))")
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 --dest "$wheels" "$package==$version" numpy
    for wheel in "$wheels"/*.whl; do "$python" -m zipfile -e "$wheel" "$root/opt/$peer"; done
    rm -rf "$wheels"
done
