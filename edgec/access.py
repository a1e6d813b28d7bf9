"""The one door to `passes` and `targets`, the two packages that lie beside edgec.

Their names are common, and Python puts the user's folder first: a `passes/` or a `targets.py` of the user's would win silently.
So nothing else in edgec imports the two; whoever wants them asks here, and gets edgec's own, or is told which stranger is in the way.
"""

import importlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from edgec.errors import EdgecError, UsageError

ROOMS = ("passes", "targets")
"""The packages that are reached through here."""


def folder(room: str) -> Path:
    """Return where edgec's own `passes` or `targets` lies, always beside edgec itself; EdgecError when the installation lacks it."""
    place = Path(__file__).resolve().parent.parent / room
    if room not in ROOMS or not (place / "__init__.py").is_file():
        raise EdgecError(f"edgec's package {room} is missing beside {place.parent / 'edgec'}: the installation is broken")
    return place


def files(room: str, pattern: str) -> list[Path]:
    """Return the data files of a room, such as `**/*.target`, in the order of their paths."""
    return sorted(folder(room).glob(pattern))


def module(name: str) -> ModuleType:
    """Import `passes`, `targets`, or a module in one of them, whatever lies in the user's folder; UsageError names a stranger."""
    room, _, rest = name.partition(".")
    package = _package(room)
    return importlib.import_module(name) if rest else package


def _package(room: str) -> ModuleType:
    own = folder(room)
    if room in sys.modules:
        present = sys.modules[room]
        if present.__file__ is None or Path(present.__file__).resolve() != own / "__init__.py":
            raise UsageError(f"edgec has a package called {room}, but {_place(present)} was imported under that name first; rename it, "
                             "or import it after edgec has done its work")
        return present
    spec = spec_from_file_location(room, own / "__init__.py", submodule_search_locations=[str(own)])
    if spec is None or spec.loader is None:
        raise EdgecError(f"Python cannot load {own}")
    made = module_from_spec(spec)
    sys.modules[room] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[room]
        raise
    return made


def _place(stranger: ModuleType) -> str:
    paths = list(getattr(stranger, "__path__", ()))
    return stranger.__file__ or (paths[0] if paths else "a module without a file")
