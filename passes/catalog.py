"""The passes, in the order of a build: what each is for, what it may be told, and why it stands where it stands."""

from collections.abc import Iterable, Mapping

from edgec.interface import FLAGS
from edgec.pipeline import Catalog, Pass
from passes import (
    absorb,
    canonicalize,
    cluster,
    cse,
    factorize,
    fold,
    horizontal,
    integers,
    interface,
    layout,
    legalize,
    partition,
    promote,
    quantize,
    tflite,
)

_ROWS: Iterable[Pass] = (
    Pass("interface", "Inputs and outputs as callers have them: u8, NHWC, means and scales in the first weights; runs when asked for.",
         interface.run, options=dict.fromkeys(FLAGS, ""), rewrites=lambda: [interface.NAME], changes_interface=True,
         before={"canonicalize": "the flags speak of the model's own inputs and outputs, and what it adds is tidied up like all else"}),
    Pass("canonicalize", "One way to say each thing: no-ops go, attributes are written out, known shapes become constants.",
         canonicalize.run, rewrites=canonicalize.rewrites,
         before={"cluster": "regions hold what kernels know, and kernels are planned for canonical nodes"}),
    Pass("fold", "Nodes whose operands are known are computed; stored weights never grow.", fold.run, rewrites=lambda: ["fold"],
         before={"cluster": "a constant inside of a region would be an operand that a kernel reads"}),
    Pass("cse", "What is computed twice is computed once, and equal weights are stored once.", cse.run,
         rewrites=lambda: ["merge-equal-nodes", "merge-equal-weights"],
         before={"layout": "equal weights in two layouts are two weights"}),
    Pass("legalize", "Operators without a kernel become some that have one; parts of a larger operator are put together.",
         legalize.run, rewrites=legalize.rewrites,
         after={"canonicalize": "it reads attributes and axes as canonicalize writes them",
                "fold": "operators whose shape is an operand have one only when that is known"},
         before={"cluster": "kernels are planned for legal nodes"}),
    Pass("absorb", "Batch norms, biases, scales and pads go into the weights and attributes of their neighbors.",
         absorb.run, rewrites=absorb.rewrites,
         after={"legalize": "what was taken apart leaves scales and biases behind"},
         before={"cluster": "a region keeps its arithmetic: nothing leaves it for the weights"}),
    Pass("factorize", "Matrix products and convolutions become two or three smaller ones: runs when --rank is given.", factorize.run,
         options={"rank": "auto", "alone": False}, rewrites=lambda: [factorize.NAME],
         after={"absorb": "scales and biases that vanish in a weight are no reason for another rank"},
         before={"promote": "it fits f32 weights, and tells which layers store others",
                 "cluster": "regions grow from the nodes that a layer is made of"}),
    Pass("quantize", "Quantized operators in one form: DequantizeLinear, an operator of reals, QuantizeLinear.", quantize.run,
         options={"int8": False, "keep": ""}, rewrites=quantize.rewrites,
         after={"legalize": "operators of integers have their borders from there",
                "factorize": "layers are fitted with reals"},
         before={"integers": "it reads this form"}),
    Pass("partition", "Each part of the graph runs on the unit of the target where all of it together takes least.", partition.run,
         options={"units": "", "place": ""}, rewrites=lambda: [partition.NAME],
         after={"absorb": "what vanishes in a weight costs nothing anywhere",
                "factorize": "a layer that has become two runs where these are cheapest",
                "quantize": "quantized operators in that form are one group each"},
         before={"tflite": "it writes the regions that are formed here",
                 "integers": "what a group of quantized operators becomes depends on its unit",
                 "promote": "quantized operators have borders in half precision; what has none is promoted before units are asked",
                 "cluster": "a kernel runs on one unit"}),
    Pass("tflite", "Regions of an NPU whose compiler reads TFLite are written in TFLite's integer operators, channels last.", tflite.run,
         rewrites=lambda: [tflite.NAME],
         after={"absorb": "what goes into weights and attributes must be there before they are in another language"},
         before={"cluster": "images change the order of their axes outside of a region, which are nodes that kernels grow around"}),
    Pass("integers", "Quantized operators compute with integers, in the rounding of the unit.", integers.run, rewrites=integers.rewrites,
         after={"absorb": "what goes into weights goes there before they are multiplied as integers"},
         before={"promote": "borders in half precision are borders, not arithmetic",
                 "cluster": "sums of integers and what follows them become one kernel"}),
    Pass("promote", "Half-precision activations become f32; weights stay as they are stored.", promote.run,
         rewrites=lambda: ["promote-half"],
         after={"absorb": "absorb computes new weights in the dtype of the model"},
         before={"cluster": "a region computes in the dtypes that its values have"}),
    Pass("horizontal", "Convolutions that read the same tensor become one where a core is faster with it.", horizontal.run,
         rewrites=lambda: [horizontal.NAME],
         after={"partition": "only what runs on the core is merged, by its times",
                "promote": "what follows a convolution alike is told by dtypes that stay"},
         before={"cluster": "a region of several convolutions is planned as one"}),
    Pass("cluster", "Regions that become one kernel each: an anchor and the elementwise arithmetic that follows it.", cluster.run,
         options={"max_epilogue": 24}, rewrites=cluster.rewrites),
    Pass("layout", "Each tensor gets the order of its elements, and weights are packed for their kernels.", layout.run,
         after={"cluster": "kernels ask for layouts, single nodes do not"}),
)
CATALOG: Catalog = {row.name: row for row in _ROWS}
_PLAIN = "canonicalize,repeat(fold,canonicalize),cse,legalize,repeat(absorb,fold,canonicalize,cse)"
PORTABLE = f"{_PLAIN},quantize"
"""What needs no target: the result is plain ONNX."""
_KERNELS = "tflite,integers,promote,horizontal,canonicalize,cluster,layout"
DEFAULT = f"{PORTABLE},partition,{_KERNELS}"
"""A build."""


def pipeline(rank: str | None = None, interface: Mapping[str, str] | None = None, partition: Mapping[str, str] | None = None, *,
             int8: bool = False, keep: Iterable[str] = ()) -> str:
    """A build with low-rank layers, another interface, a say in what runs where, and layers that are quantized.

    `rank` is auto, a ratio, or ranks of layers, None for none; `interface` and `partition` hold the options of these passes; `int8`
    quantizes layers, except for those in `keep`.
    """
    first = [step("interface", interface)] if interface else []
    low_rank = [step("factorize", {"rank": rank})] if rank is not None else []
    integers = step("quantize", {"int8": True, "keep": quantize.KEEP.join(keep)}) if int8 else "quantize"
    return ",".join([*first, _PLAIN, *low_rank, integers, step("partition", partition or {}), _KERNELS])


def step(name: str, options: Mapping[str, str | bool]) -> str:
    """One step of a pipeline with options that are texts or truth values; empty ones are left out."""
    said = [f"{k}=true" if v is True else f'{k}="' + v.replace("\\", "\\\\").replace('"', '\\"') + '"' for k, v in options.items() if v]
    return f"{name}{{{', '.join(said)}}}" if said else name
