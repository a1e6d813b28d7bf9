"""How four bytes of a pixel meet four bytes of each of some output channels: one class for each instruction that sums products of bytes.

A form makes a pixel ready (four bytes, in every lane of a vector), loads packed weights, and adds the products to i32 accumulators.
`edgec.kernels.dot.ORDER` says how each wants its weights.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.dot import DEPTH, Form
from edgec.kernels.emit.core import Index, Kernel, Vector, cast, const, hold, type_name

Parts = tuple[Vector, ...]
SIGN = 128
"""What turns u8 into i8 and back: the top bit of each byte."""


class DotForm(ABC):
    """One form; `data` is the dtype of pixels in memory. `shift` is what it adds to them, so that they are of the sign it works with."""

    signed: bool | None = None
    """The sign of the pixels that it works with; None when it works with either."""

    def __init__(self, kernel: Kernel, data: str) -> None:
        self.k, self.data = kernel, data
        flipped = self.signed is not None and self.signed != (data == "i8")
        self.shift = (0 if not flipped else SIGN if data == "i8" else -SIGN)

    def load(self, index: Index, width: int) -> Parts:
        """A pixel whose four bytes lie side by side."""
        return self.spread(word(self.k, index), width)

    def spread(self, value: Vector, width: int) -> Parts:
        """A pixel whose four bytes are those of an i32."""
        return self.ready(T.Broadcast(value, width) if width > 1 else value, width)

    def ready(self, lanes: Vector, width: int) -> Parts:
        """Four bytes for each lane, as an i32 in each; forms with a `spread` of their own have none."""
        raise NotImplementedError

    @abstractmethod
    def weights(self, index: Index, width: int) -> Parts:
        """The packed weights of four bytes and `width` channels."""

    @abstractmethod
    def add(self, acc: Vector, pixel: Parts, weights: Parts, width: int) -> Vector:
        """The accumulator plus the products."""

    def _bytes(self, lanes: Vector, width: int) -> Vector:
        """Four bytes in every lane, of the sign that the form works with."""
        if self.shift:
            lanes = hold(lanes, "i32", width) ^ const(-0x7F7F7F80, "i32", width)
        return lanes

    def _weight(self, index: Index, count: int) -> Vector:
        return hold(self.k.raw(1)[T.Ramp(index, 1, count)], "i8", count)


class Plain(DotForm):
    """Pixels and weights as they lie, all four bytes at once: what forms share that multiply bytes of one sign with i8."""

    def ready(self, lanes: Vector, width: int) -> Parts:
        """Four bytes for each lane, as an i32 in each."""
        kind = "i8" if self.signed else "u8"
        return (hold(T.reinterpret(type_name(kind, DEPTH * width), self._bytes(lanes, width)), kind, DEPTH * width),)

    def weights(self, index: Index, width: int) -> Parts:
        """The packed weights of four bytes and `width` channels."""
        return (self._weight(index, DEPTH * width),)


class Vnni(Plain):
    """u8 times i8, four at a time: AVX-512 VNNI, AVX-VNNI."""

    signed = False

    def add(self, acc: Vector, pixel: Parts, weights: Parts, width: int) -> Vector:
        """The accumulator plus the products."""
        name = f"llvm.x86.avx512.vpdpbusd.{32 * width}"
        return T.call_llvm_pure_intrin(type_name("i32", width), name, acc, pixel[0], weights[0])


class Sdot(Plain):
    """i8 times i8, four at a time, the pixel as a lane of a register: Armv8.2 with dot products."""

    signed = True

    def quad(self, index: Index) -> list[Parts]:
        """Four pixels, that is sixteen bytes side by side, by one load."""
        words = T.reinterpret("int32x4", self.k.raw(0)[T.Ramp(index, 1, 4 * DEPTH)])
        if self.shift:
            words = hold(words, "i32", 4) ^ const(-0x7F7F7F80, "i32", 4)
        words = hold(words, "i32", 4)
        lanes = [tirx.Shuffle([words], [tirx.IntImm("int32", i)] * 4) for i in range(4)]
        return [(T.reinterpret("int8x16", spread),) for spread in lanes]

    def add(self, acc: Vector, pixel: Parts, weights: Parts, width: int) -> Vector:
        """The accumulator plus the products."""
        name = f"llvm.aarch64.neon.sdot.v{width}i32.v{DEPTH * width}i8"
        return T.call_llvm_pure_intrin(type_name("i32", width), name, acc, weights[0], pixel[0])


class Smlal(DotForm):
    """i8 times i8: two products summed in 16 bits, neighbors of these in 32. Exact unless both weights of a pair are -128."""

    signed = True

    def load(self, index: Index, width: int) -> Parts:
        """A pixel whose four bytes lie side by side."""
        if self.shift:
            return super().load(index, width)
        halves = (T.reinterpret("int16", self.k.raw(0)[T.Ramp(index + 2 * i, 1, 2)]) for i in range(2))
        return tuple(self._pairs(h, width) for h in halves)

    def spread(self, value: Vector, width: int) -> Parts:
        """A pixel whose four bytes are those of an i32."""
        if self.shift:
            value = hold(value ^ const(-0x7F7F7F80, "i32"), "i32", 1)
        return self._pairs(cast(value, "i16", 1), width), self._pairs(cast(value >> const(16, "i32"), "i16", 1), width)

    def _pairs(self, value: Vector, width: int) -> Vector:
        """Two bytes in every pair of lanes."""
        return hold(T.reinterpret(type_name("i8", 2 * width), T.Broadcast(hold(value, "i16", 1), width)), "i8", 2 * width)

    def weights(self, index: Index, width: int) -> Parts:
        """The packed weights of four bytes and `width` channels."""
        return self._weight(index, 2 * width), self._weight(index + 2 * width, 2 * width)

    def add(self, acc: Vector, pixel: Parts, weights: Parts, width: int) -> Vector:
        """The accumulator plus the products."""
        name = type_name("i16", 2 * width)
        low, high = (T.call_llvm_pure_intrin(name, f"llvm.aarch64.neon.smull.v{2 * width}i16", w, p)
                     for w, p in zip(weights, pixel, strict=True))
        pairs = T.call_llvm_pure_intrin(type_name("i32", width), f"llvm.aarch64.neon.saddlp.v{width}i32.v{2 * width}i16", low + high)
        return acc + pairs


class Smull(Smlal):
    """The same with each product widened: for any weights."""

    def add(self, acc: Vector, pixel: Parts, weights: Parts, width: int) -> Vector:
        """The accumulator plus the products."""
        for p, w in zip(pixel, weights, strict=True):
            product = T.call_llvm_pure_intrin(type_name("i16", 2 * width), f"llvm.aarch64.neon.smull.v{2 * width}i16", w, p)
            pairs = T.call_llvm_pure_intrin(type_name("i32", width), f"llvm.aarch64.neon.saddlp.v{width}i32.v{2 * width}i16", product)
            acc = acc + pairs
        return acc


class Madd(DotForm):
    """Bytes widened to 16 bits, two products at a time: SSE2, AVX2, AVX-512BW. Of four bytes, the even ones meet first."""

    def ready(self, lanes: Vector, width: int) -> Parts:
        """Four bytes for each lane, as an i32 in each."""
        dtype = "u16" if self.data == "u8" else "i16"
        lanes = hold(T.reinterpret(type_name(dtype, 2 * width), self._bytes(lanes, width)), dtype, 2 * width)
        eight = const(8, dtype, 2 * width)
        even = lanes & const(0xFF, dtype, 2 * width) if self.data == "u8" else hold(lanes << eight, dtype, 2 * width) >> eight
        return tuple(hold(T.reinterpret(type_name("i16", 2 * width), part), "i16", 2 * width) for part in (even, lanes >> eight))

    def weights(self, index: Index, width: int) -> Parts:
        """The packed weights of four bytes and `width` channels."""
        return tuple(hold(cast(self._weight(index + 2 * width * i, 2 * width), "i16", 2 * width), "i16", 2 * width) for i in range(2))

    def add(self, acc: Vector, pixel: Parts, weights: Parts, width: int) -> Vector:
        """The accumulator plus the products."""
        for p, w in zip(pixel, weights, strict=True):
            acc = acc + products_of_pairs(p, w, width)
        return acc


class Maddubs(Plain):
    """u8 times i8, two products summed in 16 bits, neighbors of these in 32: SSSE3, AVX2. Exact unless a pair of weights is too large.

    What pairs are too large says `edgec.kernels.pairs`.
    """

    signed = False

    def add(self, acc: Vector, pixel: Parts, weights: Parts, width: int) -> Vector:
        """The accumulator plus the products."""
        return acc + self._products(pixel[0], weights[0], width)

    def _products(self, pixel: Vector, weights: Vector, width: int) -> Vector:
        """The sums of four products in each lane."""
        pairs = {8: "avx2.pmadd.ub.sw", 4: "ssse3.pmadd.ub.sw.128"}[width]
        two = T.call_llvm_pure_intrin(type_name("i16", 2 * width), f"llvm.x86.{pairs}", pixel, weights)
        return products_of_pairs(two, const(1, "i16", 2 * width), width)


class Signb(Maddubs):
    """i8 times i8 as |pixel| times the weight with the pixel's sign (VPSIGNB), for any pairs of weights. Exact unless a weight is -128.

    255 * 127 twice saturates 16 bits; 128 * 127 twice does not. It takes as many multiplications as the form that widens bytes, and
    widens neither pixels nor weights.
    """

    signed = True

    def ready(self, lanes: Vector, width: int) -> Parts:
        """Four bytes for each lane, as an i32 in each: what they are without their signs, and with them."""
        count = DEPTH * width
        pixel = hold(T.reinterpret(type_name("i8", count), self._bytes(lanes, width)), "i8", count)
        return hold(tirx.Select(pixel < const(0, "i8", count), const(0, "i8", count) - pixel, pixel), "i8", count), pixel

    def add(self, acc: Vector, pixel: Parts, weights: Parts, width: int) -> Vector:
        """The accumulator plus the products."""
        sign = {8: "avx2.psign.b", 4: "ssse3.psign.b.128"}[width]
        signed = T.call_llvm_pure_intrin(type_name("i8", DEPTH * width), f"llvm.x86.{sign}", weights[0], pixel[1])
        return acc + self._products(pixel[0], signed, width)


class Portable(DotForm):
    """Plain multiplication of i32, byte by byte."""

    def load(self, index: Index, width: int) -> Parts:
        """A pixel whose four bytes lie side by side."""
        return tuple(self._spread(cast(self.k.raw(0)[index + i], "i32", 1), width) for i in range(DEPTH))

    def spread(self, value: Vector, width: int) -> Parts:
        """A pixel whose four bytes are those of an i32."""
        if self.data == "u8":
            parts = [(value >> const(8 * i, "i32")) & const(0xFF, "i32") for i in range(DEPTH)]
        else:
            parts = [(value << const(24 - 8 * i, "i32")) >> const(24, "i32") for i in range(DEPTH)]
        return tuple(self._spread(p, width) for p in parts)

    def _spread(self, value: Vector, width: int) -> Vector:
        value = hold(value, "i32", 1)
        return T.Broadcast(value, width) if width > 1 else value

    def weights(self, index: Index, width: int) -> Parts:
        """The packed weights of four bytes and `width` channels."""
        raw = self.k.raw(1)
        found = (raw[T.Ramp(index + i * width, 1, width)] if width > 1 else raw[index + i] for i in range(DEPTH))
        return tuple(hold(cast(w, "i32", width), "i32", width) for w in found)

    def add(self, acc: Vector, pixel: Parts, weights: Parts, width: int) -> Vector:
        """The accumulator plus the products."""
        del width
        for p, w in zip(pixel, weights, strict=True):
            acc = acc + p * w
        return acc


def products_of_pairs(a: Vector, b: Vector, width: int) -> Vector:
    """Of two numbers of 16 bits in each lane the products, summed in 32 bits: VPMADDWD."""
    name = {16: "avx512.pmaddw.d.512", 8: "avx2.pmadd.wd", 4: "sse2.pmadd.wd"}[width]
    return T.call_llvm_pure_intrin(type_name("i32", width), f"llvm.x86.{name}", a, b)


def word(kernel: Kernel, index: Index) -> Vector:
    """Four bytes side by side as an i32."""
    return hold(T.reinterpret("int32", kernel.raw(0)[T.Ramp(index, 1, DEPTH)]), "i32", 1)


def assembled(parts: list[Vector]) -> Vector:
    """Up to four bytes, given as numbers from 0 to 255, as an i32; those that are missing are zero."""
    value: Vector = const(0, "i32")
    for i, part in enumerate(parts):
        value = value | (part << const(8 * i, "i32")) if i else part
    return hold(value, "i32", 1)


FORMS: dict[Form, Callable[[Kernel, str], DotForm]] = {
    "vpdpbusd": Vnni, "vpmaddubsw": Maddubs, "vpsignb": Signb, "pmaddwd": Madd, "sdot": Sdot, "smlal": Smlal, "smull": Smull,
    "portable": Portable}
