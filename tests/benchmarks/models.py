"""The models that benchmarks speak of by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.made import MADE
from tests.bundles import BOUND, EXAMPLES, LARGER, SMALL, source
from tests.shared import light

LIGHT = tuple(f"light_{n}" for n in ("resnet50", "squeezenet", "densenet121", "inception_v1", "inception_v2", "shufflenet", "vgg19",
                                     "zfnet512", "bvlc_alexnet"))
ALL = (*EXAMPLES, *SMALL, *LARGER, "squeezenet_fp32", "crepe_tiny", *LIGHT)

VARIANTS: Mapping[str, Mapping[str, Any]] = {"minilm_l6_w16@8x32": {"dims": {"batch": 8, "length": 32}}}
"""Models with other dimensions than elsewhere, by name."""


def find(name: str, folder: Path) -> Path:
    """The ONNX file of a model; one that has to be made first is written into `folder`. Behind an @ may stand a name in VARIANTS."""
    if name.endswith(".onnx"):
        return Path(name)
    if not name.startswith("light_") and name not in MADE:
        return source(name.partition("@")[0])
    path = folder / f"{name}.onnx"
    if not path.exists():
        path.write_bytes((MADE[name]() if name in MADE else light(name[6:])).SerializeToString())
    return path


def binding(name: str) -> Mapping[str, Any]:
    """The shapes or dims of `edgec.build` that bind the open dimensions of a model."""
    return VARIANTS.get(name) or BOUND.get(name, {})


def flags(name: str) -> list[str]:
    """The same as flags of a command."""
    bound = binding(name)
    shapes = [f"--shape={k}={','.join(map(str, v))}" for k, v in bound.get("shapes", {}).items()]
    return shapes + [f"--dim={k}={v}" for k, v in bound.get("dims", {}).items()]


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))
