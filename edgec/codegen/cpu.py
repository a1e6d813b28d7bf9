"""Which instructions the code may use, and how a program asks the processor whether it has them."""

from collections.abc import Sequence
from itertools import groupby

# LLVM's word: (cpuid leaf, subleaf, register 0..3 of eax ebx ecx edx, bit, bits of XCR0 that the system must have set)
X86 = {
    "sse3": (1, 0, 2, 0, 0), "ssse3": (1, 0, 2, 9, 0), "fma": (1, 0, 2, 12, 6), "sse4.1": (1, 0, 2, 19, 0), "sse4.2": (1, 0, 2, 20, 0),
    "movbe": (1, 0, 2, 22, 0), "popcnt": (1, 0, 2, 23, 0), "avx": (1, 0, 2, 28, 6), "f16c": (1, 0, 2, 29, 6),
    "bmi": (7, 0, 1, 3, 0), "avx2": (7, 0, 1, 5, 6), "bmi2": (7, 0, 1, 8, 0),
    "avx512f": (7, 0, 1, 16, 0xE6), "avx512dq": (7, 0, 1, 17, 0xE6), "avx512ifma": (7, 0, 1, 21, 0xE6), "avx512cd": (7, 0, 1, 28, 0xE6),
    "avx512bw": (7, 0, 1, 30, 0xE6), "avx512vl": (7, 0, 1, 31, 0xE6), "avx512vbmi": (7, 0, 2, 1, 0xE6), "avx512vbmi2": (7, 0, 2, 6, 0xE6),
    "gfni": (7, 0, 2, 8, 0), "avx512vnni": (7, 0, 2, 11, 0xE6), "avx512bitalg": (7, 0, 2, 12, 0xE6),
    "avx512vpopcntdq": (7, 0, 2, 14, 0xE6), "avx512fp16": (7, 0, 3, 23, 0xE6),
    "avxvnni": (7, 1, 0, 4, 6), "avx512bf16": (7, 1, 0, 5, 0xE6), "avxifma": (7, 1, 0, 23, 6),
    "lzcnt": (0x80000001, 0, 2, 5, 0), "sse4a": (0x80000001, 0, 2, 6, 0),
    "xop": (0x80000001, 0, 2, 11, 6), "fma4": (0x80000001, 0, 2, 16, 6),
}
# LLVM's word: (AT_HWCAP 16 or AT_HWCAP2 26, bit), as Linux numbers them
AARCH64 = {
    "neon": (16, 1), "fullfp16": (16, 10), "rdm": (16, 12), "jsconv": (16, 13), "complxnum": (16, 14), "dotprod": (16, 20),
    "fp16fml": (16, 23), "sve": (16, 22), "sve2": (26, 1), "i8mm": (26, 13), "bf16": (26, 14), "sme": (26, 23), "cssc": (26, 34),
    "sve2p1": (26, 36), "mops": (26, 43),
}


def requirements(triple: str, features: Sequence[str]) -> tuple[str, ...]:
    """Those of LLVM's CPU features that kernels may use and a program can ask for; atomics, cryptography and tuning words are left out."""
    table = X86 if triple.startswith("x86_64") else AARCH64 if triple.startswith("aarch64") and "linux" in triple else {}
    return tuple(f for f in table if f in features)


def check_cpu_source(name: str, triple: str, requires: Sequence[str]) -> str:
    """C source of NAME_check_cpu. Where a program cannot ask (no operating system), everything is taken to be there."""
    head = f"int32_t {name}_check_cpu(const char** missing) {{\n"
    if not requires:
        return f"{head}  if (missing != NULL) *missing = NULL;\n  return {name}_OK;\n}}\n"
    helper, lines = (_X86, _x86_tests(requires)) if triple.startswith("x86_64") else (_AARCH64, _aarch64_tests(requires))
    return (f"{helper}\n{head}  const char* what = NULL;\n{lines}  if (missing != NULL) *missing = what;\n"
            f"  return what == NULL ? {name}_OK : {name}_CPU;\n}}\n")


def _x86_tests(requires: Sequence[str]) -> str:
    """Each leaf is read once: a virtual machine takes microseconds for it."""
    lines = ["  uint32_t r[4], system;", "  leaf(1, 0, r);", "  system = saved(r);", "  (void)system;"]
    for (leaf, subleaf), features in groupby(requires, lambda f: X86[f][:2]):
        lines += [f"  leaf({leaf}u, {subleaf}, r);"] if (leaf, subleaf) != (1, 0) else []
        for feature in features:
            _, _, which, bit, system = X86[feature]
            kept = f" && (system & 0x{system:x}) == 0x{system:x}" if system else ""
            lines.append(f'  if (what == NULL && !(r[{which}] >> {bit} & 1{kept})) what = "{feature}";')
    return "".join(f"{line}\n" for line in lines)


def _aarch64_tests(requires: Sequence[str]) -> str:
    return "".join('  if (what == NULL && !has({}, {})) what = "{}";\n'.format(*AARCH64[f], f) for f in requires)


def quick_check_source(name: str, triple: str, requires: Sequence[str]) -> str:
    """A line of NAME_run_args that refuses a processor, where asking takes no time: cpuid takes microseconds in a virtual machine."""
    return f"  if ((code = {name}_check_cpu(NULL)) != 0) return code;\n" if requires and triple.startswith("aarch64") else ""


_X86 = """/* The registers of a leaf of cpuid; zeros where the processor has no such leaf. */
static void leaf(uint32_t number, uint32_t subleaf, uint32_t* r) {
  __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(number & 0x80000000u), "c"(0));
  if (r[0] < number) r[0] = r[1] = r[2] = r[3] = 0;
  else __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(number), "c"(subleaf));
}

/* Which registers the operating system keeps: XCR0, where leaf 1 says that a program may ask. */
static uint32_t saved(const uint32_t* r) {
  uint32_t low = 0, high;
  if (r[2] >> 27 & 1) __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}
"""

_AARCH64 = """/* Linux tells each program what the processor has: in words 16 and 26 of the auxiliary vector. */
extern unsigned long getauxval(unsigned long type);
static int has(unsigned long word, int bit) { return (int)(getauxval(word) >> bit & 1); }
"""
