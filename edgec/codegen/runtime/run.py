#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Runs the model that lies beside this file; needs Python 3.8 and numpy.

    python3 run.py [--threads N] [--out FOLDER] [x.npy | NAME=x.npy ...]     (random inputs where none are given)

    from run import Model
    Model("model.edgec", threads=2).run({"x": array})                        -> {"y": array}
"""

import argparse
import ctypes
import hashlib
import json
import os
import platform
import sys

import numpy as np

SCHEMA, ABI = 1, 1
# bf16 has no numpy type: its bits are given as uint16.
DTYPES = {"f16": np.float16, "f32": np.float32, "f64": np.float64, "bool": np.bool_, "bf16": np.uint16}
DTYPES.update({s + b: getattr(np, ("u" if s == "u" else "") + "int" + b) for s in "iu" for b in ("8", "16", "32", "64")})


class Args(ctypes.Structure):
    """NAME_args of NAME.h."""

    _fields_ = ([(n, ctypes.c_uint32) for n in ("size", "abi")]
                + [(n, ctypes.c_void_p) for n in ("weights", "prepared", "arena", "state", "ins", "outs", "in_dims", "out_dims", "rt")]
                + [(n, ctypes.c_uint32) for n in ("level", "flags", "first_step", "step_count")])


class Model:
    """A compiled model. `run` may be called by several threads at once."""

    def __init__(self, path=None, threads=1):
        folder = os.path.abspath(path or os.path.dirname(os.path.abspath(__file__)))
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
            self.manifest = facts = json.load(file)
        if facts["schema"] > SCHEMA or facts["abi"] != ABI:
            raise RuntimeError("this model needs a newer run.py")
        if platform.machine() != facts["requires"]["machine"]:
            raise RuntimeError("this model was built for {} and this machine is {}".format(facts["requires"]["machine"], platform.machine()))
        name = facts["c_name"]
        for file in ("lib" + name + ".so", name + ".weights.bin"):
            check(os.path.join(folder, file), facts["files"][file])
        for libm in ("libm.so.6", "libm.so"):  # kernels may use its functions
            try:
                ctypes.CDLL(libm, mode=ctypes.RTLD_GLOBAL)
                break
            except OSError:
                pass
        library = ctypes.CDLL(os.path.join(folder, "lib" + name + ".so"))
        self._run, self._strerror = library[name + "_run_args"], library[name + "_strerror"]
        self._strerror.restype = ctypes.c_char_p
        missing = ctypes.c_char_p()
        if library[name + "_check_cpu"](ctypes.byref(missing)):
            raise RuntimeError("this processor lacks " + missing.value.decode() + ", which the model needs")
        self.inputs, self.outputs, self._sizes = facts["inputs"], facts["outputs"], facts["sizes"]
        with open(os.path.join(folder, name + ".weights.bin"), "rb") as file:
            self._weights = self._memory(os.fstat(file.fileno()).st_size)
            file.readinto(self._weights)
        self._prepared, self._state = self._memory(self._sizes["prepared_bytes"]), self._memory(self._sizes["state_bytes"])
        self._check(library[name + "_prepare"](pointer(self._weights), pointer(self._prepared)))
        self._rt = None
        if threads > 1:
            check(os.path.join(folder, "libedgec_rt.so"), facts["files"]["libedgec_rt.so"])
            pool = ctypes.CDLL(os.path.join(folder, "libedgec_rt.so"))
            pool.edgec_rt_create.restype = ctypes.c_void_p
            self._rt = pool.edgec_rt_create(ctypes.c_int32(threads))
            if not self._rt:
                raise RuntimeError("threads cannot be started")

    def _memory(self, size):
        """Aligned memory."""
        align = self._sizes["alignment"]
        block = np.zeros(size + align, np.uint8)
        start = -block.ctypes.data % align
        return block[start:start + size]

    def _check(self, code):
        if code:
            raise RuntimeError(self._strerror(ctypes.c_int32(code)).decode())

    def run(self, feeds):
        """Run on arrays by name, or on one array when there is one input; returns the outputs by name."""
        if not isinstance(feeds, dict):
            feeds = {self.inputs[0]["name"]: feeds}
        ins = []
        for port in self.inputs:
            if port["name"] not in feeds:
                raise ValueError("there is no array for the input " + port["name"])
            array = np.ascontiguousarray(feeds[port["name"]])
            if array.shape != tuple(port["shape"]) and array.size == 1 == int(np.prod(port["shape"])):
                array = array.reshape(port["shape"])
            if array.shape != tuple(port["shape"]) or array.dtype != DTYPES[port["dtype"]]:
                raise ValueError("the input {name} must be {dtype}{shape}".format(**port) + ", not {}{}".format(array.dtype, list(array.shape)))
            ins.append(array)
        outs = [np.empty(p["shape"], DTYPES[p["dtype"]]) for p in self.outputs]
        arena = self._memory(self._sizes["arena_bytes"])
        in_pointers = (ctypes.c_void_p * max(1, len(ins)))(*[a.ctypes.data for a in ins])
        out_pointers = (ctypes.c_void_p * max(1, len(outs)))(*[a.ctypes.data for a in outs])
        args = Args(ctypes.sizeof(Args), ABI, pointer(self._weights), pointer(self._prepared), pointer(arena), pointer(self._state),
                    ctypes.cast(in_pointers, ctypes.c_void_p), ctypes.cast(out_pointers, ctypes.c_void_p), None, None, self._rt, 0, 0, 0, 0)
        self._check(self._run(ctypes.byref(args)))
        return {port["name"]: array for port, array in zip(self.outputs, outs)}


def pointer(array):
    """The address of an array, NULL when it is empty."""
    return ctypes.c_void_p(array.ctypes.data if array.size else None)


def check(path, digest):
    """Compare a file with its checksum."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    if found.hexdigest() != digest:
        raise RuntimeError("the file " + path + " is damaged")


def main():
    parser = argparse.ArgumentParser(description="Run the model that lies beside this file.")
    parser.add_argument("inputs", nargs="*", metavar="x.npy | NAME=x.npy", help="arrays; random ones where none are given")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--out", metavar="FOLDER", help="where to write the outputs as .npy files")
    options = parser.parse_args()
    model = Model(threads=options.threads)
    names, random, feeds = [p["name"] for p in model.inputs], np.random.RandomState(0), {}
    for at, word in enumerate(options.inputs):
        name, equals, path = word.rpartition("=")
        name = name if equals else names[at] if at < len(names) else ""
        if name not in names:
            raise ValueError("there is no input for {}; the inputs are {}".format(word, ", ".join(names)))
        feeds[name] = np.load(path[1:] if path.startswith("@") else path)
    for port in model.inputs:
        if port["name"] not in feeds:
            made = random.standard_normal(port["shape"]) if port["dtype"].startswith("f") else random.randint(0, 2, port["shape"])
            feeds[port["name"]] = np.asarray(made).astype(DTYPES[port["dtype"]])
    for port, (name, array) in zip(model.outputs, model.run(feeds).items()):
        line = "{}: {}{}".format(name, port["dtype"], list(array.shape))
        print(line + (" min {:.6g} max {:.6g} argmax {}".format(array.min(), array.max(), int(array.argmax())) if array.size else ""))
        if options.out:
            os.makedirs(options.out, exist_ok=True)
            np.save(os.path.join(options.out, port["c_name"] + ".npy"), array)


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit("run.py: {}".format(error))
