"""The text of kernels: one dialect for OpenCL C and CUDA C++, made the same by a few definitions in front.

A kernel takes for each operand a pointer and an offset in bytes. Work items are numbered in one row; `ITEM` is the number of one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from edgec.ir.layout import Axis, View
from edgec.kernels.base import Arg

COMMON = """
INLINE float4 make4(f32 x, f32 y, f32 z, f32 w) { float4 v; v.x = x; v.y = y; v.z = z; v.w = w; return v; }
INLINE float4 add4(float4 a, float4 b) { return make4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
"""
PRELUDES = {
    "opencl": """#pragma OPENCL FP_CONTRACT ON
typedef char i8; typedef uchar u8; typedef short i16; typedef ushort u16; typedef int i32; typedef uint u32; typedef long i64;
typedef ulong u64; typedef float f32;
#define KERNEL kernel void
#define GLOBAL global
#define SHARED local
#define INLINE static inline
#define ITEM ((int)get_global_id(0))
#define LANE ((int)get_local_id(0))
#define GROUP ((int)get_group_id(0))
#define BARRIER barrier(CLK_LOCAL_MEM_FENCE)
INLINE float4 load4(GLOBAL const f32* p) { return vload4(0, p); }
INLINE void store4(GLOBAL f32* p, float4 v) { vstore4(v, 0, p); }
INLINE float4 fma4(f32 s, float4 w, float4 a) { return s * w + a; }
INLINE f32 half_at(GLOBAL const u16* p, int i) { return vload_half(i, (GLOBAL const half*)p); }
INLINE f32 brain_at(GLOBAL const u16* p, int i) { return as_float((u32)p[i] << 16); }
""",
    "cuda": """#include <cuda_fp16.h>
typedef signed char i8; typedef unsigned char u8; typedef short i16; typedef unsigned short u16; typedef int i32;
typedef unsigned int u32; typedef long long i64; typedef unsigned long long u64; typedef float f32;
#define KERNEL extern "C" __global__ void
#define GLOBAL
#define SHARED __shared__
#define INLINE static __device__ __forceinline__
#define ITEM ((int)(blockIdx.x * blockDim.x + threadIdx.x))
#define LANE ((int)threadIdx.x)
#define GROUP ((int)blockIdx.x)
#define BARRIER __syncthreads()
INLINE float4 load4(const f32* p) {
  if (((u64)p & 15) == 0) return *(const float4*)p;
  return make_float4(p[0], p[1], p[2], p[3]);
}
INLINE void store4(f32* p, float4 v) {
  if (((u64)p & 15) == 0) { *(float4*)p = v; return; }
  p[0] = v.x; p[1] = v.y; p[2] = v.z; p[3] = v.w;
}
INLINE float4 fma4(f32 s, float4 w, float4 a) {
  return make_float4(fmaf(s, w.x, a.x), fmaf(s, w.y, a.y), fmaf(s, w.z, a.z), fmaf(s, w.w, a.w));
}
INLINE f32 half_at(const u16* p, int i) { return __half2float(__ushort_as_half(p[i])); }
INLINE f32 brain_at(const u16* p, int i) { return __uint_as_float((u32)p[i] << 16); }
"""}
_STORED = {"f16": "u16", "bf16": "u16", "bool": "u8"}
_COMPUTED = {"f16": "f32", "bf16": "f32"}


def stored(dtype: str) -> str:
    """The type of an element in memory."""
    return _STORED.get(dtype, dtype)


def computed(dtype: str) -> str:
    """The type that arithmetic on it uses."""
    return _COMPUTED.get(dtype, "bool" if dtype == "bool" else dtype)


def number(value: float, dtype: str = "f32") -> str:
    """A constant as C writes it."""
    if dtype in ("f32", "f16", "bf16"):
        single = np.float32(value)
        if np.isnan(single):
            return "NAN"
        if np.isinf(single):
            return "INFINITY" if single > 0 else "(-INFINITY)"
        text = f"{float(single)!r}"
        return f"{text}f" if single >= 0 and not str(text).startswith("-") else f"({text}f)"
    if dtype == "bool":
        return str(int(bool(value)))
    return f"(({dtype})({int(value)}L))" if dtype in ("i64", "u64") else f"(({dtype})({int(value)}))"


def along(axis: Axis, index: str) -> str:
    """The offset of an index along an axis; empty when it is always zero."""
    if axis.block and axis.block < axis.extent:
        outer, inner = scaled(f"(({index}) / {axis.block})", axis.stride), scaled(f"(({index}) % {axis.block})", axis.inner)
        return " + ".join(filter(None, (outer, inner)))
    if axis.extent == 1 and not axis.block:
        return ""
    return scaled(f"({index})", axis.inner if axis.block else axis.stride)


def scaled(index: str, stride: int) -> str:
    """An index times a stride; empty for zero."""
    return "" if stride == 0 or index in ("0", "(0)") else index if stride == 1 else f"{index} * {stride}"


def offset(view: View, indices: Sequence[str]) -> str:
    """Where an element of a view lies, counted in elements from its base."""
    return total(along(a, i) for a, i in zip(view.axes, indices, strict=True))


def total(terms: Iterator[str] | Sequence[str]) -> str:
    """A sum of texts, those that are empty left out."""
    return " + ".join(filter(None, terms)) or "0"


class Writer:
    """Lines of a kernel as they come, indented by their blocks."""

    def __init__(self, args: Sequence[Arg]) -> None:
        self.args = args
        self.lines: list[str] = []
        self._depth = 1

    def __call__(self, *lines: str) -> None:
        """Write lines at the present depth."""
        self.lines += ["  " * self._depth + line for line in lines]

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A statement with a body in braces."""
        self(f"{head} {{")
        self._depth += 1
        yield
        self._depth -= 1
        self("}")

    def load(self, arg: int, at: str) -> str:
        """One element of an operand, in the type that arithmetic uses."""
        dtype = self.args[arg].dtype
        reader = {"f16": "half_at", "bf16": "brain_at"}.get(dtype)
        return f"{reader}(p{arg}, {at})" if reader else f"(p{arg}[{at}] != 0)" if dtype == "bool" else f"p{arg}[{at}]"

    def load4(self, arg: int, at: str, step: int = 1) -> str:
        """Four elements at one step as a float4."""
        if step == 1 and self.args[arg].dtype == "f32":
            return f"load4(p{arg} + {at})"
        if step == 0:
            return f"make4({', '.join([self.load(arg, at)] * 4)})"
        return f"make4({', '.join(self.load(arg, f'{at} + {i * step}') for i in range(4))})"

    def function(self, symbol: str) -> str:
        """The kernel, whose operands are p0, p1 and so on."""
        last = len(self.args) - 1
        heads, pointers = [], []
        for i, arg in enumerate(self.args):
            const = "" if i == last or arg.role == "scratch" else "const "
            heads.append(f"GLOBAL {const}u8* b{i}, u64 o{i}")
            pointers.append(f"  GLOBAL {const}{stored(arg.dtype)}* p{i} = (GLOBAL {const}{stored(arg.dtype)}*)(b{i} + o{i});")
        return "\n".join([f"KERNEL {symbol}({', '.join(heads)}) {{", *pointers, *self.lines, "}"])


def contiguous(axis: Axis, extent: int) -> bool:
    """Whether four neighbors from each multiple of four on lie side by side, and there are no others."""
    if extent % 4:
        return False
    if axis.block and axis.block < axis.extent:
        return axis.inner == 1 and axis.block % 4 == 0
    return (axis.inner if axis.block else axis.stride) == 1
