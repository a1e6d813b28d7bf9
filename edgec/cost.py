"""The one cost model: cycles, bytes and energy from facts of the work and facts of the unit.

Tiles, algorithms, partition, rank, sparsity and budgets all ask it, so that they can never disagree. Everything here is pure and
counts cycles of one core. The rule for register tiles was fitted on a core with AVX-512, where on 19 convolutions its first form chose
tiles within 1.5 % of the best on average, 3.6 % at worst; no build searches or measures.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Any

from edgec.errors import UsageError
from edgec.ir.graph import Graph, Node
from edgec.ir.types import Tensor
from edgec.isa import Isa

CALL_CYCLES = 100.0
"""What one kernel costs before it does anything: the call, the set-up of its loops. A placeholder."""
_STORE = 0.75           # cycles to set up and store one accumulator, fitted
_FEW = 1.03             # too few accumulators to hide the latency of all of them in practice, fitted
_MANY = 0.003           # each accumulator beyond twice the latency lengthens the code of a tile for nothing, fitted
_SPILL = 1.25           # some accumulators live in memory: measured 1.3 to 2, enough to lose against every tile that fits
_STREAM = 0.7           # of the second level's nominal speed, what a stream of weights between multiplications reaches, measured with AVX2
_SHARE = 0.3            # of the cycles of such a stream, how many the multiplications do not hide, fitted
_LOAD = 0.08            # of the cycles of loads, how many the multiplications do not hide, where no `load_share` is said; fitted
_REQUANTIZE = 9.0       # vector operations that scale, round and store one accumulator of integers, as counted in machine code
_CONVERT = 0.5          # cycles for each vector of weights that is widened in the loop, measured on Zen 4
_PAIR = 1.1             # fewer than three widened vectors a step are slower than that, however many columns share them, measured on Zen 4
_WAITING = 0.02         # of a kernel's cycles, what its weights must take from main memory to be asked for in advance
_PIECE = 0.003          # each further kind of tile is code of its own, fitted
_LOADED_ONCE = 5        # registers into which LLVM loads inputs ahead where each is used once: on AVX2, 10x1 and wider tiles spilled
_NO_OPERAND = 16        # with so few registers, a multiplication has no operand that is broadcast from memory: AVX2 and older
_ALONE = 1.15           # there, a single vector of weights: each input is loaded for one multiplication; measured on Zen 3
_OTHERS, _ALIKE = 8, 2  # tiles that are remembered beside the best one, for those who measure; of one number of vectors
_IN_A_ROW, _ROW = 4, 2  # vectors that a core in order waits for at once; more cost as much as two others, by llvm-mca for Cortex-A53
_AHEAD = 3              # registers into which LLVM loads what comes next, in the lane form: with fewer, all 16 tiles tried spilled;
                        # a core for which it loads more than that says so (`spare_registers`)
_AHEAD_STRIDED = 7      # the same where columns share no inputs over a row of taps, which it unrolls


@dataclass(frozen=True)
class Tile:
    """A register tile: `tw` output columns times `nb` vectors of output channels; `cycles` for all the work it was chosen for.

    `others` are the next best tiles for the same work, best first, at most two of each number of vectors: neighbors are much alike.
    """

    tw: int
    nb: int
    cycles: float
    others: tuple["Tile", ...] = field(default=(), repr=False, compare=False)


def peak_macs(isa: Isa) -> float:
    """Return the f32 multiply-accumulates of a cycle."""
    return isa.lanes * isa.fma_ports


def fits(isa: Isa, tw: int, nb: int, *, lane: bool = False, strided: bool = False, spare: int = 0) -> bool:
    """Tell whether accumulators, weights and inputs of a tile have a register each, so that nothing is spilled.

    An input is broadcast into one register (with AVX-512 often none, but weights need one to be loaded ahead); in the lane form each column
    keeps a register of its own, and the compiler wants some for itself: more where a kernel of several taps is `strided`. `spare`: further
    registers that a step needs.
    """
    if lane:
        return tw * nb + nb + tw <= isa.registers - (_AHEAD_STRIDED if strided else _count(isa, "spare_registers", _AHEAD))
    once = _LOADED_ONCE if nb == 1 and isa.lanes > 1 and isa.registers <= _NO_OPERAND else 0
    return tw * nb + nb + 1 + once + spare <= isa.registers


def tile_cycles(isa: Isa, tw: int, nb: int, k: int, *, lane: bool = False, stored: int = 4) -> float:
    """Return the cycles of one register tile over a reduction of length k.

    `lane` multiplies by the lanes of a loaded vector of inputs (aarch64), so that one load serves `isa.lanes` steps of the reduction;
    otherwise each input is loaded and broadcast. `stored`: bytes of a weight where it lies (2 of f16). A core that works in order waits
    for loads, and longer for inputs, which are used at once.
    """
    accumulators, hidden = tw * nb, isa.fma_latency * isa.fma_ports
    inputs = tw / isa.lanes if lane else tw
    loads = inputs + nb
    busy, moving, width = accumulators * _count(isa, "fma_cycles", 1) / isa.fma_ports, loads / isa.load_ports, _count(isa, "issue", 0)
    waiting = inputs * _number(isa, "input_wait") + (nb + _ROW * (nb > _IN_A_ROW)) * _number(isa, "weight_wait")
    together = busy + moving if width == 1 else busy + waiting
    cycles = max(together, moving, float(isa.fma_latency), (accumulators + loads) / width if width else 0.0)
    if accumulators < 1.5 * hidden and not waiting:
        cycles *= _FEW
    if nb == 1 and isa.lanes > 1 and isa.registers <= _NO_OPERAND:
        cycles *= _ALONE
    if not fits(isa, tw, nb, lane=lane):
        cycles *= _SPILL
    cycles += _load_share(isa) * loads / isa.load_ports
    step = nb * isa.lanes * stored + tw * 4
    if k * nb * isa.lanes * stored > isa.l1_bytes / 4 and isa.l2_bytes_per_cycle:  # each tile reads it all anew, from the second level
        cycles = max(cycles, step / (_STREAM * isa.l2_bytes_per_cycle)) + _SHARE * step / isa.l2_bytes_per_cycle
    if stored < 4:                                                            # noqa: PLR2004 - narrower than f32
        cycles = (cycles + _CONVERT * nb) * (_PAIR if nb < 3 and not lane else 1.0)  # noqa: PLR2004
    cycles *= 1 + _MANY * max(0, accumulators - 2 * hidden)
    return k * cycles + _STORE * accumulators


def _count(isa: Isa, fact: str, default: int) -> int:
    """A whole number among the further facts of a unit."""
    value = isa.fact(fact, default)
    return value if isinstance(value, int) else default


def _number(isa: Isa, fact: str) -> float:
    """A number among the further facts of a unit, 0 where it is not said."""
    value = isa.fact(fact, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _load_share(isa: Isa) -> float:
    """Of the cycles of loads, how many the multiplications do not hide."""
    return _number(isa, "load_share") or _LOAD


def choose_tile(  # noqa: PLR0913  a shape
    isa: Isa, vectors: Sequence[int], columns: int, k: int, *, rows: int = 1, lane: bool = False, strided: bool = False, stored: int = 4,
    inputs: int = 0, spare: int = 0, wish: tuple[int, int] | None = None,
) -> Tile:
    """Choose the register tile of a direct convolution or a matrix product.

    `vectors` lists the lanes of each vector of output channels, `columns` counts the output columns of a row (in a matrix product: rows
    of the left operand), `k` the steps of the reduction, `rows` how often all of it is done, `stored` the bytes of a weight where it lies;
    `strided`, `spare`: see `fits`. What is left over gets smaller tiles. Each group of vectors reads all `inputs` bytes anew, from where
    they lie.
    A `wish`, (tw, nb), is granted when it is one of the tiles that fit.
    """
    return _chosen(isa, len(vectors), columns, k, rows, lane=lane, strided=strided, stored=stored, inputs=inputs, spare=spare, wish=wish)


@lru_cache(maxsize=8192)  # passes plan the same layer again and again
def _chosen(  # noqa: PLR0913  a shape
    isa: Isa, vectors: int, columns: int, k: int, rows: int, *, lane: bool, strided: bool, stored: int, inputs: int, spare: int,
    wish: tuple[int, int] | None,
) -> Tile:
    """The tile of so many vectors; see `choose_tile`."""
    least = 2 if lane and vectors > 1 else 1  # a lane load serves all vectors of a tile: one vector alone would waste it
    again = _SHARE * memory_cycles(isa, inputs) if inputs > isa.l1_bytes else 0.0
    candidates = (Tile(tw, nb, rows * _tiled_cycles(isa, tw, nb, vectors, columns, k, lane=lane, stored=stored) + -(-vectors // nb) * again)
                  for nb in range(least, min(vectors, isa.registers) + 1)
                  for tw in range(1, min(columns, isa.registers) + 1) if fits(isa, tw, nb, lane=lane, strided=strided, spare=spare))
    return _best(candidates, wish)


def _best(candidates: Iterable[Tile], wish: tuple[int, int] | None) -> Tile:
    """The tile of the fewest cycles, or the one that is wished for if it is there, and the next best."""
    ranked = sorted(candidates, key=lambda t: (t.cycles, -t.tw))
    chosen = next((t for t in ranked if (t.tw, t.nb) == wish), ranked[0])
    count, others = Counter({chosen.nb: 1}), list[Tile]()
    for tile in ranked:
        if tile is not chosen and count[tile.nb] < _ALIKE:
            count[tile.nb] += 1
            others.append(tile)
    return replace(chosen, others=tuple(others[:_OTHERS]))


@dataclass(frozen=True)
class Dot:
    """What an instruction on bytes costs for each step of four: loads of a pixel and of a vector of weights, and their registers.

    `pixels` and `weights` count registers of each column and of each vector, `others` those of a tile. `work` and `widening` count the
    operations that make a pixel and a vector of weights ready, of which three start in a cycle.
    """

    pixel: float
    weight: float
    pixels: int
    weights: int
    others: int
    work: int = 0
    widening: int = 0


DOTS = MappingProxyType({
    "vpdpbusd": Dot(1, 1, 0, 1, 1), "vpmaddubsw": Dot(1, 1, 0, 1, 6), "vpsignb": Dot(1, 1, 0, 1, 4, 1),
    "pmaddwd": Dot(1, 2, 0, 2, 3, 3, 2),
    "sdot": Dot(0.25, 1, 1, 1, 1), "smlal": Dot(2, 2, 2, 0, 8), "smull": Dot(2, 2, 2, 0, 8),
    "portable": Dot(4, 4, 0, 1, 2, 4)})
"""By form; `portable` is four plain multiply-accumulates of i32."""
_SHARES = MappingProxyType({"smull": 0.75, "vpsignb": 2 / 3, "pmaddwd": 0.75})
"""What a form reaches of the speed of the unit's own, where weights are too large for that one: VPSIGNB takes the ports of VPMADDUBSW."""


def int8_peak(isa: Isa) -> float:
    """Return the int8 multiply-accumulates of a cycle: in the portable form, half of those in f32, for bytes are widened at first."""
    known = isa.fact("int8_per_cycle")
    return float(known) if isinstance(known, int | float) and isa.int8_form != "portable" else peak_macs(isa) / 2


def dot_cycles(isa: Isa, form: str, tw: int, nb: int, k: int) -> float:
    """Return the cycles of one register tile of bytes over k steps of four. What it does not know of it takes from the f32 tile."""
    dot, products = DOTS[form], tw * nb
    share = 1.0 if form == isa.int8_form else _SHARES.get(form, 1.0)
    peak = int8_peak(isa) * share if form != "portable" else peak_macs(isa) / 2
    loads = (tw * dot.pixel + nb * dot.weight) / isa.load_ports
    cycles = max(4 * isa.lanes * products / peak, loads, float(isa.fma_latency)) + _load_share(isa) * loads
    cycles += (tw * dot.work + nb * dot.widening) / 3
    if products < 1.5 * isa.fma_latency * isa.fma_ports:
        cycles *= _FEW
    if not _dot_fits(isa, dot, tw, nb):
        cycles *= _SPILL
    step = (nb * isa.lanes + tw) * 4
    if k * nb * isa.lanes * 4 > isa.l1_bytes / 4 and isa.l2_bytes_per_cycle:
        cycles = max(cycles, step / (_STREAM * isa.l2_bytes_per_cycle)) + _SHARE * step / isa.l2_bytes_per_cycle
    return k * cycles + _REQUANTIZE / isa.fma_ports * products


def choose_dot_tile(isa: Isa, form: str, vectors: Sequence[int], columns: int, k: int, *, rows: int = 1,
                    wish: tuple[int, int] | None = None) -> Tile:
    """Choose the register tile of a contraction of bytes over k steps of four; see `choose_tile`."""
    def tiled(tw: int, nb: int) -> float:
        across, along = _pieces(columns, tw), _pieces(len(vectors), nb)
        cycles = sum(a * b * dot_cycles(isa, form, w, n, k) for a, w in across for b, n in along)
        return rows * cycles * (1 + _PIECE * (len(across) * len(along) - 1))

    least = 2 if isa.broadcast == "lane" and len(vectors) > 1 else 1
    candidates = (Tile(tw, nb, tiled(tw, nb)) for nb in range(least, min(len(vectors), isa.registers) + 1)
                  for tw in range(1, min(columns, isa.registers) + 1) if _dot_fits(isa, DOTS[form], tw, nb))
    return _best(candidates, wish)


def depth_cycles(isa: Isa, form: str, kernel: tuple[int, int], vectors: int, step: int) -> float:
    """Return the cycles of a depthwise convolution of bytes that makes this many vectors of outputs, `step` columns from each other.

    Interleaving rows takes about one vector operation for each, which neighbors share; plain taps take three operations each.
    """
    rows, columns = kernel
    if form in ("smlal", "smull", "portable"):
        return vectors * (3.0 * rows * columns * (1 if form == "portable" else 2) + _REQUANTIZE) / max(1, isa.fma_ports)
    quads = -(-rows // 4)
    made = float(rows * min(columns, step))
    return vectors * (made + quads * columns * (1 if form != "pmaddwd" else 4) + _REQUANTIZE) / max(1, isa.fma_ports)


def _dot_fits(isa: Isa, dot: Dot, tw: int, nb: int) -> bool:
    """Whether accumulators, weights and pixels of a tile have a register each."""
    return tw * nb + tw * dot.pixels + nb * dot.weights + dot.others <= isa.registers


def _tiled_cycles(isa: Isa, tw: int, nb: int, vectors: int, columns: int, k: int, *, lane: bool, stored: int) -> float:
    across, along = _pieces(columns, tw), _pieces(vectors, nb)
    cycles = sum(a * b * tile_cycles(isa, w, n, k, lane=lane, stored=stored) for a, w in across for b, n in along)
    return cycles * (1 + _PIECE * (len(across) * len(along) - 1))


def _pieces(total: int, size: int) -> list[tuple[int, int]]:
    """Cut a length into pieces: (how many, how long)."""
    return [(n, s) for n, s in ((total // size, size), (1, total % size)) if n and s]


def bytes_per_cycle(isa: Isa, footprint: float) -> float:
    """Return how fast one core reads from the smallest level that holds `footprint` bytes and whose speed is known."""
    l1_speed = float(isa.load_ports * isa.lanes * 4)
    levels = ((isa.l1_bytes, l1_speed), (isa.l2_bytes, isa.l2_bytes_per_cycle), (isa.l3_bytes, isa.l3_bytes_per_cycle))
    speeds = [speed for size, speed in levels if footprint <= size and speed]
    if not speeds and not isa.dram_bytes_per_cycle:
        raise UsageError(f"the target of {isa.mcpu} names no memory with a bandwidth that holds {footprint:.0f} bytes")
    return speeds[0] if speeds else isa.dram_bytes_per_cycle


def memory_cycles(isa: Isa, moved: float, footprint: float | None = None) -> float:
    """Return the cycles to move bytes once, when `footprint` bytes (by default: only these) were touched since their last use."""
    return moved / bytes_per_cycle(isa, moved if footprint is None else footprint)


def refetch_cycles(isa: Isa, computing: float, moved: float, footprint: float) -> float:
    """Return the cycles of arithmetic that fetches `moved` bytes besides, again and again from the level that holds `footprint` bytes."""
    again = memory_cycles(isa, moved, footprint) if isa.dram_bytes_per_cycle else 0.0
    return max(computing, again) + _SHARE * again


def streams(isa: Isa, size: int) -> int:
    """Return from how many pieces of memory at once a kernel should read `size` bytes that it reads only once."""
    return _count(isa, "streams", 1) if size > max(isa.l2_bytes, isa.l1_bytes) else 1


def ahead(isa: Isa, weights: float, computing: float) -> bool:
    """Return whether a kernel should ask for its `weights` (bytes) before it multiplies with them, `computing` cycles in all.

    In a large net they come from main memory, whatever they were when this kernel ran last. A core waits for what it has not asked for:
    the multiplications that wait fill its queues before it meets loads that are far enough ahead. A few requests cost nothing in
    comparison, so this is asked of the kernel alone, not of its net. A part of the second cache stays from one run to the next.
    Not in a core that works in order, which nobody has measured: a loop that keeps 20 sums spills 32 times with requests in it.
    """
    far = weights > max(isa.l2_bytes, isa.l1_bytes) / 4 and isa.dram_bytes_per_cycle > 0
    return isa.lanes > 1 and not isa.in_order and far and weights / isa.dram_bytes_per_cycle > _WAITING * computing


def kernel_cycles(isa: Isa, macs: float, moved: float, *, computing: float | None = None, weights: float = 0.0, passes: float = 1.0,
                  footprint: float = 0.0, asked: bool = False) -> float:
    """Return the cycles of one kernel: arithmetic and memory overlap, so the slower of the two counts.

    `computing` are the cycles of its arithmetic where a plan knows them better than `macs` at the peak: those of its tiles, of its maps.
    `moved` are the bytes of activations, which lie where the kernel before left them: in the level that holds all that this one touches.
    `weights` are bytes that come from the level that holds `footprint` bytes, those of all weights of the net; the arithmetic goes `passes`
    times through them, and only the first time they come from so far away; what is asked for in advance (`asked`) comes along with all of
    it, as if there was one pass, but no faster than a core can ask. On a machine that names no memory's speed, arithmetic is all.
    """
    arithmetic = macs / peak_macs(isa) if computing is None else computing
    if not isa.dram_bytes_per_cycle:
        return CALL_CYCLES + arithmetic
    around = max(weights + moved, footprint)
    stream, rate = memory_cycles(isa, weights, around), _number(isa, "prefetch_per_cycle")
    if asked and rate and around > isa.l2_bytes:
        stream = max(stream, weights / rate)
    late = arithmetic + max(0.0, stream - arithmetic / max(passes, 1.0))
    return CALL_CYCLES + max(late, memory_cycles(isa, moved, weights + moved) + stream)


def short(isa: Isa, cycles: float) -> bool:
    """Tell whether a kernel of so many cycles on one core gains less by two threads than sharing it out costs; nothing is known of 0."""
    return 0 < cycles < 2 * _number(isa, "fork")


def shared(isa: Isa, cycles: Sequence[float], *, whole: bool) -> bool:
    """Tell whether threads should share out each of some kernels that follow each other, of so many cycles on one core.

    That saves half of them and costs `fork` each. What one core does instead has to come from the other before and to go there behind,
    which costs as much once, unless these kernels are the `whole` net.
    """
    fork = _number(isa, "fork")
    return fork * (len(cycles) - (not whole)) <= sum(cycles) / 2


def predicted_us(isa: Isa, cycles: float) -> float:
    """Return cycles as microseconds at the unit's clock."""
    return cycles / isa.clock_hz * 1e6


@dataclass(frozen=True)
class EnergyTable:
    """Published energies: pJ of one multiply-accumulate by dtype, pJ of a byte from on-chip memory and from DRAM."""

    source: str
    mac: Mapping[str, float]
    sram: float
    dram: float


@dataclass(frozen=True)
class Energy:
    """An estimate in joules, and the name of the table it rests on, which belongs beside it wherever it is shown."""

    value: float
    table: str


ENERGY = MappingProxyType({
    "45nm": EnergyTable("M. Horowitz, Computing's energy problem, ISSCC 2014: add + multiply; 32 bits of an 8 KiB SRAM 5 pJ, "
                        "of DRAM 640 pJ",
                        {"i8": 0.03 + 0.2, "f16": 0.4 + 1.1, "f32": 0.9 + 3.7}, 5 / 4, 640 / 4),
    "7nm": EnergyTable("N. Jouppi et al., Ten Lessons From Three Generations, ISCA 2021: add + multiply, 64 bits of an 8 KiB SRAM 7.5 pJ; "
                       "DRAM: LPDDR4 at 11 pJ a bit, the middle of published 8 to 14",
                       {"i8": 0.007 + 0.07, "f16": 0.16 + 0.34, "f32": 0.38 + 1.31}, 7.5 / 8, 11 * 8),
})
"""Energy tables by name: what operations cost in silicon, without the instructions around them. Trust ratios, not values."""
_LIKE = {"u8": "i8", "bf16": "f16"}


def energy(macs: float, dram: float, dtype: str, table: str = "45nm", sram: float = 0.0) -> Energy:
    """Estimate the energy of multiply-accumulates in a dtype and of bytes from DRAM and on-chip memory; UsageError lists tables, dtypes."""
    if table not in ENERGY:
        raise UsageError(f"no energy table is called {table}; there are {', '.join(ENERGY)}")
    chosen = ENERGY[table]
    kind = _LIKE.get(dtype, dtype)
    if kind not in chosen.mac:
        raise UsageError(f"the energy table {table} says nothing of {dtype}; it knows {', '.join(chosen.mac)}")
    return Energy((macs * chosen.mac[kind] + dram * chosen.dram + sram * chosen.sram) * 1e-12, table)


def node_macs(node: Node) -> int:
    """Count the multiply-accumulates of a node with static shapes: of convolutions and matrix products, also inside regions."""
    match node.op.rpartition(".")[2].removeprefix("QLinear").removesuffix("Integer"):
        case "Conv":
            return node.output.tensor.elements * prod(_weight(node).dims[1:])
        case "Conv2D":
            return node.output.tensor.elements * prod(_operand(node, 1).dims[1:])
        case "DepthwiseConv2D":
            return node.output.tensor.elements * prod(_operand(node, 1).dims[1:3])
        case "ConvTranspose":
            return _operand(node, 0).elements * prod(_weight(node).dims[1:])
        case "Gemm":
            depth = _operand(node, 0).dims[0 if node.attrs.get("transA") else 1]
            return node.output.tensor.elements * depth
        case "MatMul":
            return node.output.tensor.elements * _operand(node, 0).dims[-1]
        case _:
            return sum(node_macs(inner) for _, body in node.bodies for inner in body.nodes)


def node_bytes(node: Node) -> int:
    """Count the bytes that a node with static shapes reads and writes once."""
    values = dict.fromkeys(v for v in (*node.inputs, *node.outputs) if v is not None)
    return sum(v.tensor.bytes for v in values)


def node_facts(node: Node, graph: Graph) -> dict[str, Any]:
    """Collect what a target's conditions and costs may ask of a node, as far as it is known: see NODE_FACTS in edgec/target.py.

    `graph` is the one in which the node stands; it tells constants from activations.
    """
    facts: dict[str, Any] = {"op": node.op}
    known = [v for v in (*node.inputs, *node.outputs) if v is not None]
    if known and all(isinstance(v.type, Tensor) and v.type.is_static for v in known):
        facts |= {"macs": node_macs(node), "bytes": node_bytes(node), "elements": node.output.tensor.elements,
                  "weight_bytes": sum(v.tensor.bytes for v in known if v in graph.weights)}
    first = known[0].type if known else None
    if isinstance(first, Tensor):
        facts["dtype"] = first.dtype
        if first.is_static:
            facts |= {"rank": len(first.dims), "batch": first.dims[0] if first.dims else 1}
            facts |= {"channels": first.dims[1]} if len(first.dims) > 1 else {}
    if "Conv" in node.op:
        facts |= {"group": node.attrs.get("group", 1)}
        facts |= {"out_channels": node.output.dims[1]} if isinstance(node.output.type, Tensor) and node.output.type.is_static else {}
    window = node.attrs.get("kernel_shape") or (_weight(node).dims[2:] if "Conv" in node.op and "elements" in facts else ())
    if window:
        sizes = {"kernel": window, "stride": node.attrs.get("strides") or (1,), "dilation": node.attrs.get("dilations") or (1,)}
        facts |= {name: max(along) for name, along in sizes.items()}
    return facts | ({"mode": node.attrs["mode"]} if "mode" in node.attrs else {})


def _operand(node: Node, i: int) -> Tensor:
    value = node.input(i)
    if value is None:
        raise ValueError(f"{node.label} has no input {i}")
    return value.tensor


def _weight(node: Node) -> Tensor:
    """Find the weight of a convolution: behind the scale and the zero point of the input in QLinearConv."""
    return _operand(node, 3 if node.op.rpartition(".")[2] == "QLinearConv" else 1)
