"""A bundle on disk, seen from Python: where it is, what its manifest says, and a way to run it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgec.codegen.manifest import read_manifest
from edgec.session import Session, load


@dataclass(frozen=True)
class Bundle:
    """The folder that a build leaves behind."""

    path: Path

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """Everything there is to know about it; BadInput when it cannot be read."""
        return read_manifest(self.path)

    def load(self, *, threads: int | None = None, poison: bool = False) -> Session:
        """Load it to run here, or under its target's emulator. `threads`: as it was built for, unless said."""
        return load(self.path, threads=threads or int(self.manifest["options"].get("threads", 1)), poison=poison)

    def summary(self) -> str:
        """Kernels, predicted time, and sizes, in a few lines."""
        m, sizes, report = self.manifest, self.manifest["sizes"], self.manifest["report"]
        bound = sizes["arena_lower_bound"]
        over = f"{sizes['arena_bytes'] / bound:.2f} of the lower bound {bound}" if bound else "no lower bound"
        return "\n".join([
            f"{self.path} for {m['target']['name']} ({m['target']['cpu']})",
            f"  kernels    {report['kernels']} calls of {len(m['kernels'])} functions, {report['macs'] / 1e6:.1f} M multiply-accumulates",
            f"  predicted  {report['predicted_ms']:.3f} ms on one core",
            f"  weights    {sizes['weights_bytes']} bytes",
            f"  arena      {sizes['arena_bytes']} bytes, {over}",
            f"  code       {sizes['code_bytes']} bytes",
            *(f"  {name:<10} {_memory(use)}" for name, use in m.get("memories", {}).items()),
        ])


def _memory(use: Mapping[str, Any]) -> str:
    """How much of one of the target's memories is taken."""
    of = f" of {use['size']} bytes ({use['bytes'] / use['size']:.0%})" if use["size"] else " bytes"
    return f"{use['bytes']}{of}: {', '.join(part for part, size in use['parts'].items() if size)}"
