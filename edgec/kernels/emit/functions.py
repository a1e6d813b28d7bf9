"""Scalar functions on vectors."""
from tvm import tirx
from tvm.script.ir_builder import tirx as T
from edgec.kernels.emit.core import const, cast
def _relu(i,a,d,l):
    z=const(0.0,d[0],l); return tirx.Select(tirx.GT(z,a[0]),z,a[0])
OPERATIONS={"Relu":_relu}
def convert(v,a,b,l): return cast(v,b,l)
