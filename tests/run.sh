#!/usr/bin/env bash
# Every check, on a fresh clone or on a used one: lint, types, tests, examples.
#
#   bash tests/run.sh            # what must hold before a commit: under 15 minutes on two cores
#   bash tests/run.sh --all      # the slow tests too
#
# Python packages go into .venv. Missing tools are installed through apt-get when this runs as root; what cannot be had
# is listed at the end, and the tests that need it are skipped by name.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

markers='not slow'
[ "${1:-}" = --all ] && { markers=''; shift; }

failed=() absent=()
step() { # step NAME COMMAND...: runs it, remembers a failure, goes on
    printf '\n== %s\n' "$1"
    "${@:2}" || { failed+=("$1"); printf '== %s: FAILED\n' "$1"; }
}

found() { # whether a tool is here; clang's sanitizers are a library that it looks for when it links, OpenCL's are what it loads
    case "$1" in
        clang-sanitizers) [ -e "$(clang --print-file-name="libclang_rt.asan-$(uname -m).a" 2>/dev/null)" ] ;;
        libOpenCL) ldconfig -p | grep -q 'libOpenCL\.so\.1 ' ;;
        bochs-term) compgen -G '/usr/lib/*/bochs/plugins/libbx_term_gui.so' >/dev/null ;;
        pocl) compgen -G '/etc/OpenCL/vendors/*.icd' >/dev/null ;;
        sshd) [ -x /usr/sbin/sshd ] || command -v sshd >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

tools() {
    local wanted=(
        gcc:gcc g++:g++ clang:clang clang-sanitizers:libclang-rt-dev ld.lld:lld cmake:cmake
        aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu aarch64-linux-gnu-g++:g++-aarch64-linux-gnu qemu-aarch64:qemu-user
        qemu-system-arm:qemu-system-arm arm-none-eabi-gcc:gcc-arm-none-eabi bochs-bin:bochs bochs-term:bochs-term
        libOpenCL:ocl-icd-libopencl1 pocl:pocl-opencl-icd ssh:openssh-client sshd:openssh-server
    )
    local beside=(libnewlib-arm-none-eabi)   # no command of its own: the C library of arm-none-eabi-gcc
    local pair missing=() apt=(apt-get -o DPkg::Lock::Timeout=300 -qq -y)
    for pair in "${wanted[@]}"; do found "${pair%%:*}" || missing+=("${pair##*:}"); done
    if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "apt-get install ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        case " ${missing[*]} " in *' gcc-arm-none-eabi '*) missing+=("${beside[@]}") ;; esac
        "${apt[@]}" update >/dev/null
        # Together, and one by one when one of them does not exist here.
        "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
            for pair in "${missing[@]}"; do "${apt[@]}" install --no-install-recommends "$pair" >/dev/null 2>&1; done
    fi
    for pair in "${wanted[@]}"; do
        found "${pair%%:*}" && echo "  ${pair%%:*}" || { absent+=("${pair%%:*} (Debian package ${pair##*:})"); echo "  ${pair%%:*}: MISSING"; }
    done
}

bare_examples() { # examples/run.sh must need no compiler and no binutils: it sees these commands and no others
    local path tool python
    path=$(mktemp -d)
    for tool in bash cat cksum dirname env ls mkdir qemu-aarch64 uname; do
        python=$(command -v "$tool") && ln -s "$python" "$path/$tool"
    done
    ln -s "$(.venv/bin/python -c 'import sys; print(sys._base_executable)')" "$path/python3"
    env PATH="$path" bash examples/run.sh
    local code=$?
    rm -r "$path"
    return $code
}

tests() {
    unset PYTHONDONTWRITEBYTECODE   # many tests start Python anew, which would read every source of edgec anew
    export OPENBLAS_NUM_THREADS=1   # a test has one core, and threads that wait for each other take ten times as long
    .venv/bin/python -m pytest -n auto --dist worksteal -q -rs -m "$markers" "$@" 2>&1 | tee "$log"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
step tools tools
step 'python packages' bash .ci/venv cross dev npu
[ ${#failed[@]} -eq 0 ] || { echo 'without its Python packages nothing can be tested'; exit 1; }
step ruff .venv/bin/ruff check --output-format concise .
step mypy .venv/bin/mypy
step examples bare_examples
step pytest tests "$@"

echo
for tool in ${absent[@]+"${absent[@]}"}; do echo "NOT TESTED for want of $tool"; done
grep -E '^SKIPPED' "$log" | sed 's/^SKIPPED/NOT TESTED/'
[ ${#failed[@]} -eq 0 ] || printf 'FAILED: %s\n' "${failed[@]}"
tail -n 1 "$log"
[ ${#failed[@]} -eq 0 ]
