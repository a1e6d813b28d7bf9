"""The models that benchmarks speak of by name."""

from pathlib import Path

from tests.bundles import BOUND, EXAMPLES, LARGER, SMALL, source
from tests.shared import light

LIGHT = tuple(f"light_{n}" for n in ("resnet50", "squeezenet", "densenet121", "inception_v1", "inception_v2", "shufflenet", "vgg19",
                                     "zfnet512", "bvlc_alexnet"))
ALL = (*EXAMPLES, *SMALL, *LARGER, "squeezenet_fp32", "crepe_tiny", *LIGHT)


def find(name: str, folder: Path) -> Path:
    """The ONNX file of a model; one that has to be made first is written into `folder`."""
    if name.endswith(".onnx"):
        return Path(name)
    if not name.startswith("light_"):
        return source(name)
    path = folder / f"{name}.onnx"
    if not path.exists():
        path.write_bytes(light(name[6:]).SerializeToString())
    return path


def flags(name: str) -> list[str]:
    """What binds the open dimensions of a model."""
    bound = BOUND.get(name, {})
    shapes = [f"--shape={k}={','.join(map(str, v))}" for k, v in bound.get("shapes", {}).items()]
    return shapes + [f"--dim={k}={v}" for k, v in bound.get("dims", {}).items()]


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))
