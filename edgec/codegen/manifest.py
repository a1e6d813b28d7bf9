"""The manifest of a bundle: read, checked for its version and for damage."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.errors import BadInput

SCHEMA, ABI = 2, 1
"""The newest that this edgec reads and writes: of the manifest, and of the C interface. A bundle for the CPU alone has schema 1."""

ERRORS = (
    ("OK", "everything went well"),
    ("NULL_ARG", "a pointer that is needed is NULL"),
    ("ALIGN", "a pointer is not aligned as it must be"),
    ("DIM", "a dimension of an input is not what the model was built for"),
    ("INDEX", "a value in the data points outside a tensor, or an integer is divided by zero"),
    ("ABI", "the arguments are those of another version of the interface"),
    ("WEIGHTS", "the weights are not those of this model"),
    ("ABORTED", "the run was stopped"),
    ("CPU", "this processor lacks an instruction that the code uses"),
    ("STEP", "the schedule has no such step"),
    ("NO_DEVICE", "a unit that the model runs on is not there: no driver was given for it"),
    ("DEVICE", "a unit that the model runs on reported an error, which its driver can tell"),
)
"""Codes that the C functions return and their sentences, by number. A kernel that refuses data returns -1, which becomes INDEX."""


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the bundle in folder `path`; BadInput when there is none, it is damaged, or it is of a newer edgec."""
    file = path / "manifest.json"
    try:
        manifest = json.loads(file.read_bytes())
        schema, abi = int(manifest["schema"]), int(manifest["abi"])
        digest = manifest.pop("manifest_sha256", None)
    except OSError as error:
        raise BadInput(f"{path} is not a bundle: {file.name} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is damaged: {error}") from error
    if schema > SCHEMA or abi > ABI:
        raise BadInput(f"{path} was made by a newer edgec: it has schema {schema} and ABI {abi}, this one reads up to {SCHEMA} and {ABI}")
    if digest != _digest(manifest):
        raise BadInput(f"{file} is damaged: its checksum is not the one that it holds")
    return dict(manifest)


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of the bundle in folder `path`, with its checksum."""
    text = json.dumps({**manifest, "manifest_sha256": _digest(manifest)}, indent=1)
    (path / "manifest.json").write_text(text + "\n")


def calls(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps that run a kernel, on whatever unit: all but copies between memories and waits."""
    return [s for s in manifest["steps"] if "kernel" in s]


def kernels_ms(manifest: Mapping[str, Any]) -> float:
    """The predicted milliseconds of all kernels, copies left out."""
    report = manifest["report"]
    return float(report["predicted_ms"] - report.get("units_ms", {}).get("copies", 0.0))


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every file with its checksum; BadInput names the first that is missing or damaged."""
    for name, digest in manifest["files"].items():
        try:
            found = file_digest(path / name)
        except OSError as error:
            raise BadInput(f"{path / name} cannot be read: {error.strerror}") from error
        if found != digest:
            raise BadInput(f"{path / name} is damaged: its checksum is not the one in manifest.json")
