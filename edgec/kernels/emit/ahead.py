"""Weights asked for before they are needed: the next panel, spread over all of the work on the present one."""

from tvm.script.ir_builder import tirx as T  # noqa: N812

from edgec.kernels.emit.core import Index, Kernel


class Ahead:
    """Asks for a range of elements of argument `arg`, some lines at a time; an element has `width` bytes.

    The place is a variable, so that loops need no sum of how far they are. A range may end behind the argument.
    """

    def __init__(self, kernel: Kernel, arg: int, width: int) -> None:
        self._k, self._arg, self._line = kernel, arg, kernel.isa.line_bytes // width
        self._end: Index = kernel.plan.args[arg].elements
        self._place = T.alloc_buffer((1,), "int32")

    def begin(self, first: Index, size: int) -> None:
        """From now on, ask for `size` elements from `first` on."""
        self._end = T.bind(T.min(first + size, self._k.plan.args[self._arg].elements))
        T.buffer_store(self._place, first, [0])

    def ask(self, lines: int) -> None:
        """Ask for so many lines more; at the end of the range for its last ones again, which costs nothing."""
        at = T.bind(T.min(self._place[0], self._end - lines * self._line))
        self._lines(at, lines)
        T.buffer_store(self._place, at + lines * self._line, [0])

    def lead(self, at: Index, lines: int) -> None:
        """Ask for `lines` lines from element `at` on, or for the last ones of the argument."""
        self._lines(T.bind(T.min(at, self._k.plan.args[self._arg].elements - lines * self._line)), lines)

    def _lines(self, at: Index, count: int) -> None:
        for i in range(count):
            self._k.prefetch(self._arg, at + i * self._line)
