"""`edgec verify`: whether a bundle computes what its model says."""

import argparse
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.commands.console import Console, table
from edgec.commands.options import positive, remote_options, simulate_option
from edgec.commands.run import read_arrays
from edgec.errors import BadInput

if TYPE_CHECKING:
    from edgec.bundle import Bundle
    from edgec.session import Array, Port, Session
    from edgec.verify import Agreement, Reference

HELP = "compare a bundle with its model on several inputs; exit code 4 when they do not agree"
_INPUTS = 3
_SCALES = (1.0, 8.0, 64.0)
_MISSED = 4


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `edgec verify` takes."""
    parser.add_argument("bundle", type=Path, help="what `edgec build` made")
    parser.add_argument("--model", type=Path, required=True, help="the model that it was built from")
    parser.add_argument("--inputs", type=Path, metavar="FILE.npz", help="arrays by input, each of its shape, or with one more axis in "
                        "front that counts samples (default: random numbers)")
    parser.add_argument("--tolerance", type=float, metavar="E",
                        help="the largest error that is allowed (default: 1e-4, or 1e-3 where convolutions use Winograd's method)")
    simulate_option(parser)
    remote_options(parser)
    parser.add_argument("--per-kernel", action="store_true", help="compare each kernel's result, and name the first that differs")
    parser.add_argument("--seed", type=int, default=1, help="of the random inputs (default: 1)")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: what the bundle was built for")


def run(args: argparse.Namespace, console: Console) -> int:
    """Compare, tell, and answer 0 or 4."""
    from edgec import verify  # noqa: PLC0415 - slow to load, like everything heavy in commands
    from edgec.bundle import Bundle  # noqa: PLC0415

    bundle = Bundle(args.bundle)
    args.tolerance = args.tolerance if args.tolerance is not None else verify.tolerance_of(bundle)
    session = bundle.load(threads=args.threads, poison=True, simulate_npu=args.simulate_npu, on=args.on, timeout=args.timeout)
    if session.simulated:
        console.note(f"no NPU executed its commands: their place was taken by {session.simulated}")
    same_model(bundle, args.model, console)
    expect, who = verify.reference(bundle, args.model)
    if bundle.manifest["options"].get("int8") and verify.WHOLE not in who:
        console.warn("the bundle was built with --int8, and the model computes with reals: the bundle is exact for what the same build "
                     "makes with --emit onnx, and edgec measure tells what is lost on data")
    samples = None if args.inputs is None else read_samples(args.inputs, session.inputs)
    best: dict[str, Agreement] = {}
    for scale in _SCALES[:1] if samples else _SCALES:  # pictures of 0 to 255 move outputs that hardly change for numbers about 1
        feeds = _feeds(bundle, session.inputs, samples, abs(args.seed), scale)
        for a in _compare(verify.agreement, session.run, expect, feeds, args.tolerance):
            if a.name not in best or (best[a.name].ok and (a.why or best[a.name].error is None)):
                best[a.name] = a
        if all(a.why or a.error is not None for a in best.values()):
            break
        console.detail(f"some output changes too little with inputs of scale {scale:g}")
    found = list(best.values())
    checked = any(a.error is not None for a in found)
    ok = checked and all(a.ok for a in found)
    first: dict[str, Any] | None = None
    if args.per_kernel:
        first = _kernels(bundle, args, feeds, console)
        ok = ok and first is None
    console.result(table([(a.name, "no check" if a.error is None else f"{a.error:.2e}", f"{a.tolerance:.1e}", "ok" if a.ok else a.why)
                          for a in found], ("output", "error", "allowed", ""), right=(1, 2)))
    if not checked and not any(a.why for a in found):
        console.warn("nothing was checked: no output changes by 1 % of its size between these inputs; give others with --inputs")
    if session.simulated:
        _other_rounding(bundle, args.model, session, feeds, console)
    where = f" under {session.emulator}" if session.emulator else f" on {session.remote}" if session.remote else ""
    console.result(f"{'equal' if ok else 'NOT EQUAL'} on {len(feeds)} inputs{where}; the reference is {who}")
    console.data({
        "ok": ok, "reference": who, "emulator": session.emulator or None, "on": session.remote or None, "inputs": len(feeds),
        "outputs": {a.name: {**_facts(a), "tolerance": a.tolerance, "ok": a.ok, "checked": a.error is not None} for a in found},
        **({"first_kernel": first} if args.per_kernel else {})})
    return 0 if ok else _MISSED


def _other_rounding(bundle: "Bundle", model: Path, session: "Session", feeds: "Sequence[Mapping[str, Array]]", console: Console) -> None:
    """How far another runtime, which rounds sums in reals, is from what an NPU computes: worth knowing, and no mistake."""
    import numpy as np  # noqa: PLC0415

    from edgec import verify  # noqa: PLC0415

    run, who = verify.plain_reference(bundle, model)
    for port in session.outputs:
        apart = [np.abs(session.run(f)[port.name].astype(np.float64) - np.asarray(run(f)[port.name], np.float64)) for f in feeds]
        share, most = np.mean([np.mean(a > 0) for a in apart]), max(float(a.max(initial=0)) for a in apart)
        console.note(f"{who}, which rounds otherwise, differs in {share:.1%} of {port.name}, by at most {most:g}")


def _facts(a: "Agreement") -> dict[str, Any]:
    """The error, where JSON has a number for it, and what is wrong."""
    return {"error": a.error if a.error is not None and isfinite(a.error) else None, "why": a.why or None}


def same_model(bundle: "Bundle", model: Path, console: Console) -> None:
    """Warn when the file is not the one that the bundle was built from; BadInput when there is none."""
    import hashlib  # noqa: PLC0415

    try:
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"the model {model} cannot be read: {error.strerror}") from None
    if digest != bundle.manifest["model_sha256"]:
        console.warn(f"{bundle.path} was built from another file than {model}")


def _compare(agree: Any, ours: Any, expect: "Reference", feeds: Sequence[Mapping[str, "Array"]], tolerance: float) -> list["Agreement"]:
    got, wanted = [ours(f) for f in feeds], [expect(f) for f in feeds]
    return [agree(name, [g[name] for g in got], [w[name] for w in wanted], tolerance) for name in got[0]]


def _feeds(bundle: "Bundle", ports: Sequence["Port"], samples: Sequence[Mapping[str, "Array"]] | None, seed: int,
           scale: float) -> list[Mapping[str, "Array"]]:
    """The samples, with a random one when there is just one, because an error needs two; else random ones."""
    from edgec.samples import draw  # noqa: PLC0415

    given = list(samples or ())
    missing = range(max(0, (2 if given else _INPUTS) - len(given)))
    return [*given, *(draw(ports, seed + i, bundle.manifest.get("input_ranges", {}), scale) for i in missing)]


def read_samples(path: Path, ports: Sequence["Port"]) -> list[Mapping[str, "Array"]]:
    """The samples in a file, checked against the inputs; BadInput says which are missing."""
    loaded = read_arrays(path)
    arrays = loaded if isinstance(loaded, Mapping) else {ports[0].name: loaded}
    if missing := [p.name for p in ports if p.name not in arrays]:
        raise BadInput(f"{path} has no array for the input{'s' * (len(missing) > 1)} {', '.join(missing)}; it has {', '.join(arrays)}")
    stacked = {p.name: arrays[p.name] if arrays[p.name].ndim == len(p.shape) + 1 else arrays[p.name][None] for p in ports}
    counts = {len(a) for a in stacked.values()}
    if len(counts) != 1 or 0 in counts:
        found = " and ".join(f"{len(a)} of {n}" for n, a in stacked.items())
        raise BadInput(f"{path} has {found}: as many of each are needed, and at least one")
    return [{name: a[i] for name, a in stacked.items()} for i in range(counts.pop())]


def _kernels(bundle: "Bundle", args: argparse.Namespace, feeds: Sequence[Mapping[str, "Array"]], console: Console) -> dict[str, Any] | None:
    """Go through the kernels until one differs; what is known of that one."""
    from edgec.verify import per_kernel  # noqa: PLC0415

    count = 0
    for found in per_kernel(bundle, args.model, feeds[:_INPUTS], args.tolerance, on=args.on, timeout=args.timeout):
        count += 1
        a = found.agreement
        console.detail(f"{found.number:4} {'no check' if a.error is None else f'{a.error:.2e}':>9} {a.name} ({found.origin})")
        if not a.ok:
            console.result(f"the first kernel that differs: step {found.number}, {found.origin}, which makes %{a.name}: it {a.why}")
            return {"step": found.number, "kernel": found.kernel, "origin": found.origin, "result": a.name, **_facts(a)}
    console.result(f"all {count} values that kernels make agree with the evaluator")
    return None
