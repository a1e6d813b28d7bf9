#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
# ruff: noqa: B905, T201 - Python 3.8
"""Runs the model that lies beside this file. Needs Python 3.8 and numpy, nothing else. bf16 is given as the bits of an unsigned integer.

python3 run.py [--threads N] [--out FOLDER] [x.npy | NAME=x.npy ...]     (random inputs where none are given)
from run import Model
Model("model.edgec", threads=2).run({"x": array})                        -> {"y": array}
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import mmap
import platform
import runpy
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA, ABI = 2, 1
DTYPES: dict[str, Any] = {"f16": np.float16, "f32": np.float32, "f64": np.float64, "bool": np.bool_, "bf16": np.uint16,
                          "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
                          "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64}


class Args(ctypes.Structure):
    """NAME_args of NAME.h."""

    _fields_ = ([(n, ctypes.c_uint32) for n in ("size", "abi")]
                + [(n, ctypes.c_void_p) for n in ("weights", "prepared", "arena", "state", "ins", "outs", "in_dims", "out_dims", "rt")]
                + [(n, ctypes.c_uint32) for n in ("level", "flags", "first_step", "step_count")]
                + [("devices", ctypes.c_void_p)])


class Model:
    """A compiled model. Several threads may call `run` at once."""

    def __init__(self, path: str | None = None, threads: int = 1) -> None:
        """Load the bundle in folder `path`, or the one that this file is part of. RuntimeError when it cannot run here."""
        folder = Path(path).resolve() if path else Path(__file__).resolve().parent
        facts = manifest(folder / "manifest.json")
        if (machine := facts["requires"]["machine"]) != platform.machine():
            raise RuntimeError(f"this model is for {machine} and this machine is {platform.machine()}")
        self.inputs, self.outputs, self._sizes = facts["inputs"], facts["outputs"], facts["sizes"]
        name, digests = facts["c_name"], facts["files"]
        for libm in ("libm.so.6", "libm.so"):  # some kernels use its functions
            with suppress(OSError):
                ctypes.CDLL(libm, mode=ctypes.RTLD_GLOBAL)
        library = load(folder / f"lib{name}.so", digests)
        self._run, self._strerror = library[f"{name}_run_args"], library[f"{name}_strerror"]
        self._strerror.restype, missing = ctypes.c_char_p, ctypes.c_char_p()
        if library[f"{name}_check_cpu"](ctypes.byref(missing)):
            raise RuntimeError(f"this processor lacks {(missing.value or b'?').decode()}, which the model needs")
        weights = folder / f"{name}.weights.bin"
        check(weights, digests)
        self._weights = self._memory(weights.stat().st_size)
        with weights.open("rb", buffering=0) as file:
            file.readinto(self._weights.data)
        self._prepared, self._state = self._memory(self._sizes["prepared_bytes"]), self._memory(self._sizes["state_bytes"])
        self._units: Any = None
        if facts.get("units"):
            check(folder / "units.py", digests)
            self._units = runpy.run_path(str(folder / "units.py"))["Units"](
                folder, facts, library, self._weights.ctypes.data, lambda file: load(file, digests))
        self._rt = None
        if threads > 1:
            pool = load(folder / "libedgec_rt.so", digests)
            pool.edgec_rt_create.restype = ctypes.c_void_p
            self._rt = pool.edgec_rt_create(ctypes.c_int32(threads))
            if not self._rt:
                raise RuntimeError("threads cannot be started")
        more = (ctypes.c_void_p(self._rt), release, None) if hasattr(library, f"{name}_prepare_with") else ()
        prepare = library[f"{name}_prepare_with" if more else f"{name}_prepare"]
        self._check(prepare(*(ctypes.c_void_p(pointer(m)) for m in (self._weights, self._prepared)), *more))

    def _memory(self, size: int) -> np.ndarray[Any, Any]:
        """Zeros at an aligned address."""
        block = np.zeros(size + (align := int(self._sizes["alignment"])), np.uint8)
        return block[(start := -block.ctypes.data % align):start + size]

    def _check(self, code: int) -> None:
        if code:
            raise RuntimeError(self._strerror(ctypes.c_int32(code)).decode() + (f" ({self._units.error()})" if self._units else ""))

    def run(self, feeds: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Run on arrays by name, or on one array when there is one input; return the outputs by name."""
        if not isinstance(feeds, dict):
            feeds = {self.inputs[0]["name"]: feeds}
        ins = []
        for port in self.inputs:
            if port["name"] not in feeds:
                raise ValueError(f"there is no array for the input {port['name']}")
            array = np.asarray(feeds[port["name"]], order="C")
            if array.shape != tuple(port["shape"]) or array.dtype != DTYPES[port["dtype"]]:
                raise ValueError("the input {name} must be {dtype}{shape}".format(**port) + f", not {array.dtype}{list(array.shape)}")
            ins.append(array)
        outs = [np.empty(p["shape"], DTYPES[p["dtype"]]) for p in self.outputs]
        arena = self._memory(self._sizes["arena_bytes"])
        in_pointers = (ctypes.c_void_p * (len(ins) + 1))(*[a.ctypes.data for a in ins])
        out_pointers = (ctypes.c_void_p * (len(outs) + 1))(*[a.ctypes.data for a in outs])
        args = Args(size=ctypes.sizeof(Args), abi=ABI, weights=pointer(self._weights), prepared=pointer(self._prepared),
                    arena=pointer(arena), state=pointer(self._state), rt=self._rt,
                    ins=ctypes.addressof(in_pointers), outs=ctypes.addressof(out_pointers))
        with self._units or nullcontext() as args.devices:  # a device serves one run at a time
            self._check(self._run(ctypes.byref(args)))
        return {port["name"]: array for port, array in zip(self.outputs, outs)}


@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)  # type: ignore[untyped-decorator]
def release(_: None, start: int, size: int) -> None:
    """Give back the pages of weights that nobody reads any more."""
    begin, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
    ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(max(0, end - begin)), mmap.MADV_DONTNEED)


def pointer(array: np.ndarray[Any, Any]) -> int | None:
    """The address of an array, NULL when it is empty."""
    return array.ctypes.data if array.size else None


def manifest(path: Path) -> dict[str, Any]:
    """Everything there is to know about the bundle, after a look at the checksum that it holds."""
    try:
        facts = json.loads(path.read_bytes())
        digest, is_newer = facts.pop("manifest_sha256"), facts["schema"] > SCHEMA or facts["abi"] > ABI
    except OSError as error:
        raise RuntimeError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeError(f"{path} is damaged: {error}") from error
    if is_newer:
        raise RuntimeError("this model was made by a newer edgec than this run.py")
    if digest != hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest():
        raise RuntimeError(f"{path} is damaged: its checksum is not the one that it holds")
    return dict(facts)


def check(path: Path, digests: dict[str, str]) -> None:
    """Compare a file with its checksum."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise RuntimeError(f"{path} cannot be read: {error.strerror}") from error
    if digest.hexdigest() != digests[path.name]:
        raise RuntimeError(f"{path} is damaged: its checksum is not the one in manifest.json")


def load(path: Path, digests: dict[str, str]) -> ctypes.CDLL:
    """Load a library after a look at its checksum."""
    check(path, digests)
    return ctypes.CDLL(str(path))


def main() -> None:
    """Read arrays, run the model, say what came out."""
    parser = argparse.ArgumentParser(description="Run the model that lies beside this file.")
    parser.add_argument("inputs", nargs="*", metavar="x.npy | NAME=x.npy", help="arrays; random ones where none are given")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write the outputs as .npy files")
    options = parser.parse_args()
    model = Model(threads=options.threads)
    names, feeds = [p["name"] for p in model.inputs], {}
    for at, word in enumerate(options.inputs):
        name, equals, file = word.rpartition("=")
        name = name if equals else names[at] if at < len(names) else ""
        if name not in names:
            raise ValueError(f"there is no input for {word}; the inputs are {', '.join(names)}")
        try:
            feeds[name] = np.load(file.lstrip("@"))
        except (EOFError, OSError, ValueError) as error:
            raise RuntimeError(f"{file.lstrip('@')} cannot be read as an array: {getattr(error, 'strerror', None) or error}") from error
    dice = np.random.default_rng(0)
    for port in model.inputs:
        if port["name"] not in feeds:
            made = dice.standard_normal(port["shape"]) if port["dtype"].startswith("f") else dice.integers(0, 2, port["shape"])
            feeds[port["name"]] = np.asarray(made).astype(DTYPES[port["dtype"]])
    made = model.run(feeds)
    for port in model.outputs:
        array = made[port["name"]]
        facts = f" min {array.min():.6g} max {array.max():.6g} argmax {array.argmax()}" if array.size else ""
        print(f"{port['name']}: {port['dtype']}{list(array.shape)}{facts}")
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            np.save(options.out / (port["c_name"] + ".npy"), array)


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"run.py: {error}")
