"""What this machine's processor may not run: kernels and whole bundles for AVX-512 and VNNI, in Bochs."""

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgec.bundle import Bundle
from edgec.ir.graph import Array
from edgec.ir.types import numpy_dtype
from edgec.isa import Isa, cpu_isa
from edgec.target import find
from edgec.verify import agreement, reference, tolerance_of
from tests import bochs, test_attention, test_bytes, test_contract, test_dot, test_recurrent_kernels, test_winograd
from tests.bundles import bundle, feeds, source, write_header
from tests.kernel_harness import AVX512, runs

FLOATS = ("digits_cnn", "digits_mobilenet", "digits_transformer", "digits_gru", "mnist_opset8", "mlperf_kws_dscnn_fp32",
          "resnet20_cifar10_fp32", "crnn_mnist_strings", "dtln_stage1_lstm")
KWS = "mlperf_kws_dscnn_qdq_s8"
BUNDLES = {"x86-64-v4": (*FLOATS, KWS), "zen4": FLOATS, "cascadelake": ("digits_cnn", "digits_gru", KWS),
           "icelake": ("digits_cnn", "digits_gru", KWS), "sapphirerapids": ("digits_cnn", "digits_gru")}
"""Models for each target: all of them for two, some for the others, whose f32 kernels LLVM alone makes otherwise."""
MORE = {"zen4", "sapphirerapids"}
"""Cores with bfloat16, and SSE4A or FP16, which none of Bochs 2.7 has beside AVX-512: bundles would refuse to run on one. Those in f32 use
none of these instructions; kernels of bytes have INSERTQ or VMOVW."""
QUICK = {("digits_gru", "x86-64-v4"), (KWS, "icelake")}

KERNELS: Mapping[str, tuple[Isa, Callable[[], object]]] = {
    "contract": (AVX512, lambda: test_contract.test_convolution(test_contract.CONVOLUTIONS[2], AVX512)),
    "depthwise": (AVX512, lambda: test_contract.test_convolution(test_contract.CONVOLUTIONS[8], AVX512)),
    "map": (AVX512, lambda: test_bytes.test_a_table("u8", AVX512)),
    "winograd": (AVX512, lambda: test_winograd.test_results(*test_winograd.CASES[4], 4, AVX512)),
    "recurrent": (AVX512, lambda: test_recurrent_kernels.test_layers(*test_recurrent_kernels.CASES[1], AVX512)),
    "attention": (AVX512, lambda: test_attention.test_heads(*test_attention.CASES[1], AVX512)),
    "bytes": (test_dot.FORMS["madd512"], lambda: test_dot.test_convolution(test_dot.CONVOLUTIONS[5], test_dot.FORMS["madd512"])),
    "bytes with VNNI": (test_dot.VNNI, lambda: test_dot.test_convolution(test_dot.CONVOLUTIONS[4], test_dot.VNNI)),
}
"""One of each family that is not only for --all: where the processor runs them itself, these tests do the same twice."""


def bochs_run(made: Bundle, given: Mapping[str, Array], folder: Path) -> dict[str, Array]:
    """The outputs of a bundle, in poisoned memory. AssertionError when they depend on how tasks are handed out."""
    isa, name, sizes = cpu_isa(find(made.manifest["target"]["name"])), made.manifest["c_name"], made.manifest["sizes"]
    model = bochs.processor(isa.mcpu, isa.mattr)
    assert model
    write_header(made, folder)
    words = [f"-I{made.path}", f"-I{folder}"]
    shutil.copy(made.path / f"{name}.o", folder)
    if made.manifest["target"]["name"] in MORE:
        words.append("-DANY_PROCESSOR")
        subprocess.run(["objcopy", f"--weaken-symbol={name}_check_cpu", folder / f"{name}.o"], check=True)
    program = bochs.link(folder, [bochs.PROGRAMS / "bochs_bundle.c", folder / f"{name}.o", *words])
    assert bochs.misread(program) is None                          # as in ResNet-8 of bytes, which is not among the models for this reason
    ports = [(p["name"], tuple(p["shape"]), np.dtype(numpy_dtype(p["dtype"]))) for p in made.manifest["outputs"]]
    blank = [bochs.Block(b"\xff" * (dtype.itemsize * int(np.prod(shape))), "out") for _, shape, dtype in ports]
    weights, work = (made.path / f"{name}.weights.bin").read_bytes(), [b"\xff" * sizes[f"{m}_bytes"] for m in ("prepared", "arena")]
    inputs = [bochs.Block(given[p["name"]].tobytes()) for p in made.manifest["inputs"]]
    blocks = [bochs.Block(weights), *(bochs.Block(data, "work") for data in (*work, bytes(sizes["state_bytes"]))),
              bochs.Block(bytes(8), "out"), *inputs, *blank, *blank]
    codes, *outputs = bochs.run(program, model, (), blocks)
    assert codes == bytes(8), np.frombuffer(codes, np.int32)
    assert outputs[:len(ports)] == outputs[len(ports):], "the result depends on how tasks are handed out"
    return {key: np.frombuffer(data, dtype).reshape(shape) for (key, shape, dtype), data in zip(ports, outputs, strict=False)}


def each() -> Sequence[object]:
    """BUNDLES, marked."""
    made = []
    for target, names in BUNDLES.items():
        isa = cpu_isa(find(target))
        why = bochs.missing(isa.mcpu, isa.mattr)
        for name in names:
            marks = [pytest.mark.skip(reason=why)] if why else [pytest.mark.slow] * ((name, target) not in QUICK)
            made.append(pytest.param(name, target, marks=marks, id=f"{name}-{target}"))
    return made


@pytest.mark.parametrize(("name", "target"), each())
def test_a_bundle(name: str, target: str, tmp_path: Path) -> None:
    made = bundle(name, target)
    right, _ = reference(made, source(name))
    given = [feeds(made, seed) for seed in (1, 2)]
    wanted = [right(f) for f in given]
    got = [bochs_run(made, f, tmp_path) for f in given]
    for key in wanted[0]:
        found = agreement(key, [g[key] for g in got], [w[key] for w in wanted], tolerance_of(made))
        assert found.ok, found


@pytest.mark.parametrize("family", KERNELS)
def test_a_kernel(family: str) -> None:
    isa, test = KERNELS[family]
    if why := runs(isa.integer):
        pytest.skip(why)
    test()


@pytest.mark.parametrize(("mcpu", "body", "said"), [
    ("x86-64-v4", "((char*)words[1])[4] = 1;", "page fault"), ("x86-64-v4", "((char*)words[2])[-1] = 1;", "page fault"),
    ("x86-64-v4", "((char*)words[3])[0] = 1;", "page fault"),
    ("x86-64-v4", "((void (*)(long))program)((long)&words);", "exception with no resolution"),
    ("x86-64-v3", '__asm__("vpxord %zmm0, %zmm0, %zmm0");', "an instruction that this processor lacks"),
    ("x86-64-v4", '__asm__("vpdpbusd %zmm0, %zmm0, %zmm0");', "an instruction that this processor lacks"),
    ("x86-64-v4", "*(double*)words[1] = 0;", "page fault"), ("icelake-client", '__asm__("vpdpbusd %zmm0, %zmm0, %zmm0");', "")])
def test_what_a_program_must_not_do(mcpu: str, body: str, said: str, tmp_path: Path) -> None:
    if why := bochs.missing(mcpu):
        pytest.skip(why)
    (tmp_path / "main.c").write_text(f"void program(const long* words) {{ {body} *(int*)words[1] = words[0]; }}\n")
    program = bochs.link(tmp_path, ["main.c"])
    blocks = [bochs.Block(bytes(4), "out"), bochs.Block(bytes(4), "work", low=True), bochs.Block(bytes(4))]
    if said:
        with pytest.raises(bochs.Crash, match=said):
            bochs.run(program, str(bochs.processor(mcpu)), [7], blocks)
    else:
        assert bochs.run(program, str(bochs.processor(mcpu)), [7], blocks) == [bytes([7, 0, 0, 0])]
