"""What convolutions, products and pools read and write, seen as images: the first step of planning them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgec.ir.graph import Value
from edgec.ir.layout import Axis, View
from edgec.kernels.base import Arg, Epilogue, Load, Operands, broadcast, extent
from edgec.kernels.region import Region


@dataclass(frozen=True)
class Images:
    """`inputs` of the anchor: data, [weight], [bias]; views [n, c, h, w] of the data, of the output, and of all that the epilogue reads.

    A matrix product is a 1x1 convolution: the columns of its result are channels, its rows lie along w.
    """

    inputs: tuple[Value, ...]
    views: tuple[View, ...]

    @classmethod
    def of(cls, inputs: tuple[Value, ...], region: Region, operands: Operands, *, image: bool = True) -> "Images":
        """The operands of a region whose anchor has one or two spatial axes; one axis lies along w. Without `image` as they are."""
        views = (operands.view(inputs[0]), operands.view(region.output), *epilogue_views(region, operands))
        return cls(inputs, tuple(map(_image, views)) if image else views)

    @property
    def x(self) -> View:
        """The data."""
        return self.views[0]

    @property
    def y(self) -> View:
        """The output."""
        return self.views[1]

    @property
    def loads(self) -> tuple[View, ...]:
        """What the epilogue reads."""
        return self.views[2:]

    @property
    def bias(self) -> bool:
        """Whether the anchor adds one."""
        return len(self.inputs) > 2                             # noqa: PLR2004

    @property
    def column(self) -> bool:
        """Whether the output is one column, that is a row that stands: tiles want length along w."""
        return self.y.axes[3].extent == 1 < self.y.axes[2].extent

    @property
    def turned(self) -> "Images":
        """Rows and columns exchanged."""
        return self.each(lambda v: v.transpose((0, 1, 3, 2)))

    @property
    def cut(self) -> bool:
        """Whether the rows or columns of data or output are blocked."""
        return any(v.axes[a].block for v in (self.x, self.y) for a in (2, 3))

    def each(self, change: Callable[[View], View]) -> "Images":
        """The same change to each view."""
        return replace(self, views=tuple(map(change, self.views)))

    def args(self, region: Region, right: View | None = None) -> tuple[Arg, ...]:
        """The arguments of the kernel; the second input is a packed weight unless it is an activation, seen through `right`."""
        made = [Arg("input", self.inputs[0].tensor.dtype, extent(self.x))]
        made += [Arg("weight", v.tensor.dtype, v.tensor.elements) for v in self.inputs[1:]]
        if right is not None:
            made[1] = Arg("input", self.inputs[1].tensor.dtype, extent(right))
        made += [Arg("input", v.tensor.dtype, extent(view)) for v, view in zip(region.operands, self.loads, strict=True)]
        return (*made, Arg("output", region.result.dtype, extent(self.y)))

    def epilogue(self, region: Region) -> Epilogue:
        """The region's arithmetic on the anchor's result, with the numbers of the arguments that `args` gives."""
        return Epilogue(region.expr, tuple(Load(i, v) for i, v in enumerate(self.loads, len(self.inputs))))


def epilogue_views(region: Region, operands: Operands) -> list[View]:
    """What the epilogue reads, broadcast to the output's shape."""
    return [broadcast(operands.view(v), region.result.dims) for v in region.operands]


def _image(view: View) -> View:
    return view if len(view.axes) == 4 else View((*view.axes[:2], Axis(1, 0), view.axes[2]))   # noqa: PLR2004
