"""Functions by table: a register of sixteen coefficients answers sixteen lookups at once, on units that permute by index (AVX-512).

A multiply-add unit that starts one 512-bit operation a cycle is what such a kernel waits for; permutations run beside it. The tables were
fitted for this file: the least largest error of each piece (Lawson's weighted least squares in f64), rounded to f32.
"""

from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.emit.core import Vector, const, hold, type_name, unit
from edgec.kernels.emit.vectormath import MAGIC, VectorMath

_ENTRIES = 16
_STEP = 0.375                         # pieces are this wide and lie around its multiples
_LAST = 5.5                           # the middle of the last piece's range: everything beyond is read there
NORMAL_CDF = (                        # P(0 < X < t) of the normal distribution around k * _STEP: one row for each power of t - k * _STEP
    (0, 0.146169767, 0.27337265, 0.369705468, 0.43319279, 0.469603628, 0.487775534, 0.495667547, 0.498650104, 0.499630928, 0.499911577,
     0.499981463, 0.499996603, 0.499999464, 0.499999911, 0.5),
    (0.398942262, 0.37185508, 0.301137447, 0.211876646, 0.1295176, 0.0687862784, 0.0317396484, 0.0127241798, 0.00443184795,
     0.00134111894, 0.000352595933, 8.05406235e-05, 1.598382e-05, 2.75596949e-06, 4.12854376e-07, 0),
    (0, -0.0697210133, -0.112924434, -0.119179711, -0.0971386433, -0.064488098, -0.0357077979, -0.0167006962, -0.00664769765,
     -0.00226300396, -0.000661024824, -0.000166071404, -3.59478472e-05, -6.71312227e-06, -1.0826634e-06, 0),
    (-0.0664891005, -0.0532595292, -0.021958435, 0.00937873404, 0.0269820187, 0.028840052, 0.0214907732, 0.0124925626, 0.00590925524,
     0.00232249987, 0.000767586054, 0.000214952976, 5.12669176e-05, 1.0451934e-05, 1.82639781e-06, 0),
    (0, 0.0164753143, 0.0227785446, 0.0171565302, 0.00610539503, -0.00269762403, -0.00608495111, -0.00539881038, -0.00332962675,
     -0.00159261341, -0.000616451784, -0.000197295725, -5.28764322e-05, -1.1964129e-05, -2.29837383e-06, 0),
    (0.00990083627, 0.00669673225, -0.000123112157, -0.00522403186, -0.00582969189, -0.00328559824, -0.00048025939, 0.000952905742,
     0.0011020141, 0.000720284996, 0.000344072527, 0.000129315144, 3.95175121e-05, 9.99777785e-06, 2.11759652e-06, 0),
)


def permutes() -> bool:
    """Whether the unit that is written for looks up sixteen f32 with one instruction."""
    isa = unit()
    return isa.arch == "x86_64" and isa.lanes == _ENTRIES


def _lookup(table: Sequence[float], index: Vector, lanes: int) -> Vector:
    """The entries of a table at the low four bits of i32 indices. Fewer lanes than sixteen are computed as sixteen."""
    everywhere = [tirx.IntImm("int32", i) for i in range(_ENTRIES)]
    constants = tirx.Shuffle([const(v, "f32") for v in table], everywhere)
    if lanes == 1:
        index = T.Broadcast(index, _ENTRIES)
    elif lanes < _ENTRIES:
        index = tirx.Shuffle([index] * (_ENTRIES // lanes), everywhere)
    found = T.call_llvm_pure_intrin(type_name("f32", _ENTRIES), "llvm.x86.avx512.permvar.sf.512", constants, index)
    return found if lanes == _ENTRIES else tirx.Shuffle([found], everywhere[:lanes])


def gelu(m: VectorMath, x: Vector) -> Vector:
    """Gelu of f32: x P(X < x) of the normal distribution is |x| P(0 < X < |x|) + x / 2, NaN of NaN and of -inf."""
    half, t = m.hold(x * m.const(0.5)), m.hold(m.abs(x))
    near = m.at_most(t, _LAST)
    rounded = m.hold(near * m.const(1.0 / _STEP) + m.const(MAGIC))
    index = hold(T.reinterpret(type_name("i32", m.lanes), rounded), "i32", m.lanes)
    d = m.hold(near - m.hold(rounded - m.const(MAGIC)) * m.const(_STEP))
    value = None
    for row in reversed(NORMAL_CDF):
        entry = m.hold(_lookup(row, index, m.lanes))
        value = entry if value is None else m.hold(value * d + entry)
    return t * value + half
