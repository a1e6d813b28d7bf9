"""What tests of passes need: golden cases, numbers before and after, random graphs. For edgec's own tests and for users'."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgec.testing.compare import difference
    from edgec.testing.golden import apply, check, check_meaning
    from edgec.testing.numeric import error, feeds, numeric_difference
    from edgec.testing.random_graphs import random_graph

__all__ = ["apply", "check", "check_meaning", "difference", "error", "feeds", "numeric_difference", "random_graph"]
_HOMES = {
    "apply": "golden", "check": "golden", "check_meaning": "golden", "difference": "compare",
    "error": "numeric", "feeds": "numeric", "numeric_difference": "numeric", "random_graph": "random_graphs",
}


def __getattr__(name: str) -> Any:
    """Load a function when it is first asked for: random graphs need no passes, and passes no random graphs."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
