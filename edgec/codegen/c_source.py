"""C from a Program: the schedule as a table of small functions, and the header that users include.

The code is plain on purpose: someone who debugs a device reads it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import prod
from typing import Any

from edgec.codegen import c_units, weights
from edgec.codegen.c_text import address, c_type, comment, element_bytes, fill, identifier
from edgec.codegen.cpu import check_cpu_source, quick_check_source
from edgec.codegen.manifest import ERRORS
from edgec.codegen.program import Call, Copy, Launch, Port, Program, Step, Wait
from edgec.errors import EdgecError

_UNPREPARED = """int32_t NAME_prepare(const void* weights, void* prepared) {
  int32_t code = NAME_check_cpu(NULL);
  if (code == 0) code = check_weights(weights);
  if (code == 0) code = check_memory(prepared, BYTES);
  return code;
}
"""
_PARALLEL = "    if (a->rt != NULL && steps[i].tasks > 1)\n"
_PIPELINE = """    stages = a->rt != NULL ? stages_from(i, end) : 1;
    if (stages > 1) {
      code = run_pipeline(a->rt, &f, i, stages);
      i += stages - 1;
    } else if (a->rt != NULL && steps[i].tasks > 1)
"""


def kernel_name(program: Program, key: str) -> str:
    """The function of a kernel in the model's object: its symbol behind the model's name."""
    symbol, prefix = program.kernels[key].symbol.removeprefix("edgec_"), identifier(program.name) + "_"
    return symbol if symbol.startswith(prefix) else prefix + identifier(symbol)


def header(program: Program, target: str) -> str:
    """NAME.h, for C99 and C++17."""
    name, ports = identifier(program.name), [*program.inputs, *program.outputs]
    fixed = [p for p, size in (("prepared", program.prepared_bytes), ("state", program.state_bytes)) if size]
    parameters = [f"const {_parameter(p)}" for p in program.inputs] + [_parameter(p) for p in program.outputs]
    return fill("model.h", {
        "NAME": name, "TARGET": target, "PORTS": "\n".join(f"     {_describe(p, program)}" for p in ports),
        "WEIGHTS_BYTES": program.weights_bytes + weights.HEADER_BYTES, "PREPARED_BYTES": program.prepared_bytes,
        "ARENA_BYTES": program.arena_bytes, "STATE_BYTES": program.state_bytes, "ALIGNMENT": program.alignment, "STEPS": len(program.steps),
        "ERRORS": ",\n".join(f"  {name}_{code} = {i} /* {sentence} */" for i, (code, sentence) in enumerate(ERRORS)),
        "PARAMETERS": ", ".join([*parameters, "void* arena", *(f"void* {p}" for p in fixed)]),
        "ARGUMENTS": ", ".join([*(identifier(p.c_name) for p in ports), "arena", *fixed]),
        "IN_COUNT": max(1, len(program.inputs)), "OUT_COUNT": max(1, len(program.outputs)),
        "PREPARED": "prepared" if program.prepared_bytes else "NULL", "STATE": "state" if program.state_bytes else "NULL",
        "PREPARE_WITH": fill("prepare.h", {"NAME": name, "RUN_BYTES": program.spent[0] + weights.HEADER_BYTES}) if program.prepare else "",
        **c_units.header(program),
        "ASSIGNMENTS": "\n".join([f"  in[{i}] = {identifier(p.c_name)};" for i, p in enumerate(program.inputs)]
                                 + [f"  out[{i}] = {identifier(p.c_name)};" for i, p in enumerate(program.outputs)]),
    })


def main(program: Program, identity: bytes, triple: str, requires: Sequence[str], definitions: str = "") -> str:
    """NAME_main.c: checks the arguments, then runs the steps; `identity` names the arrangement of the weights.

    The kernels are declared, for they come from elsewhere, unless their `definitions` are given.
    """
    name = identifier(program.name)
    read = _read_only(program)
    kernels = sorted(program.functions)
    return fill("main_model.c", {
        "NAME": name,
        "KERNELS": definitions or "\n".join(_prototype(kernel_name(program, k), read[k]) for k in kernels),
        "STEPS": "\n\n".join([*(_step(program, f"prepare_{i}", s) for i, s in enumerate(program.prepare)),
                              *(_step(program, f"step_{i}", s) for i, s in enumerate(program.steps))]),
        "PREPARE": _prepare(program, name),
        "STEP_COUNT": len(program.steps), **_table(program), **c_units.main(program),
        "HEADER": _bytes(weights.checked_header(program, identity)), "ID": _bytes(identity[:16]),
        "WEIGHTS_BYTES": program.weights_bytes + weights.HEADER_BYTES, "PREPARED_BYTES": program.prepared_bytes,
        "ARENA_BYTES": program.arena_bytes, "STATE_BYTES": program.state_bytes, "ALIGNMENT": program.alignment,
        "IN_COUNT": len(program.inputs), "OUT_COUNT": len(program.outputs),
        "CHECKS": "\n".join(_pointer_checks(program, name)),
        "IN_DIMS": _dims(program.inputs), "OUT_DIMS": _dims(program.outputs),
        "IN_RANKS": sum(len(p.shape) for p in program.inputs), "OUT_RANKS": sum(len(p.shape) for p in program.outputs),
        "MESSAGES": "\n".join(f'    case {name}_{code}: return "{sentence}";' for code, sentence in ERRORS),
        "CHECK_CPU": check_cpu_source(name, triple, requires), "QUICK_CHECK_CPU": quick_check_source(name, triple, requires),
    })


def _called(program: Program) -> list[Call]:
    """The steps that call a function of the object."""
    return [*program.prepare, *(s for s in program.calls if not isinstance(s, Launch))]


def _prepare(program: Program, name: str) -> str:
    """What fills the region "prepared"; nothing where there is none."""
    if not program.prepare:
        return _UNPREPARED.replace("NAME", name).replace("BYTES", str(program.prepared_bytes))
    begin, spent = program.spent
    return fill("prepare.c", {
        "NAME": name, "PREPARED_BYTES": program.prepared_bytes, "SPENT": begin, "COUNT": len(program.prepare),
        "TABLE": "\n".join(f"  {{prepare_{i}, {s.tasks}, {n}}}," for i, (s, n) in enumerate(zip(program.prepare, spent, strict=True)))})


def _table(program: Program) -> dict[str, str]:
    """The table of steps, and what runs those of them that do their only task in rounds."""
    calls = [s if isinstance(s, Call) and not isinstance(s, Launch) else None for s in program.steps]
    columns = [[c.tasks if c else 1 for c in calls]]
    made = {**dict.fromkeys(("ROUNDS", "TIMES_ROUNDS", "STAGES", "RUN_PIPELINE"), ""), "IF_PARALLEL": _PARALLEL}
    if any(c and c.rounds > 1 for c in calls):
        columns.append([c.rounds if c else 1 for c in calls])
        made |= {"ROUNDS": "  int32_t rounds; /* of its only task, one after the other: a range counts these */\n",
                 "TIMES_ROUNDS": " * steps[i].rounds"}
    if any(c and c.behind for c in calls):
        columns.append([c.behind if c else 0 for c in calls])
        made["ROUNDS"] += "  int32_t behind; /* rounds that the step before must be ahead; 0: it must be done */\n"
        made |= {"STAGES": ", stages", "RUN_PIPELINE": fill("pipeline.c", {}), "IF_PARALLEL": _PIPELINE}
    rows = (f"  {{step_{i}, {', '.join(map(str, row))}}}," for i, row in enumerate(zip(*columns, strict=True)))
    return {"TABLE": "\n".join(rows) or "  {NULL, 0},", **made}


def _read_only(program: Program) -> dict[str, list[bool]]:
    """For each kernel, which of its pointers are only read, in every step."""
    found: dict[str, list[bool]] = {}
    for step in _called(program):
        flags = [not o.write for o in step.operands]
        before = found.setdefault(step.kernel, flags)
        if len(before) != len(flags):
            raise EdgecError(f"the kernel {step.kernel} is called with {len(before)} and with {len(flags)} operands")
        found[step.kernel] = [a and b for a, b in zip(before, flags, strict=True)]
    return found


def _prototype(function: str, read_only: Iterable[bool]) -> str:
    pointers = ", ".join("const void*" if r else "void*" for r in read_only)
    return f"int32_t {function}({pointers}{', ' if pointers else ''}int32_t begin, int32_t end);"


def _step(program: Program, function: str, step: Step) -> str:
    head = (f"/* {comment(step.origin or step.result)} */\nstatic int32_t {function}(void* p, int32_t begin, int32_t end) {{\n"
            "  const frame* f = (const frame*)p;\n")
    if isinstance(step, Copy | Launch | Wait):
        return head + c_units.step(program, step) + "\n}"
    operands = "".join(f"{address(program, o)}, " for o in step.operands)
    return f"{head}  (void)f;\n  return {kernel_name(program, step.kernel)}({operands}begin, end);\n}}"


def _pointer_checks(program: Program, name: str) -> Iterable[str]:
    for side, ports in (("in", program.inputs), ("out", program.outputs)):
        for i, p in enumerate(ports):
            size = element_bytes(p.dtype)
            yield f"  if (a->{side}[{i}] == NULL) return {name}_NULL_ARG;"
            if size > 1:
                yield f"  if ((uintptr_t)a->{side}[{i}] % {size} != 0) return {name}_ALIGN;"


def _dims(ports: Sequence[Port]) -> str:
    return ", ".join(str(d) for p in ports for d in p.shape) or "0"


def _bytes(data: bytes) -> str:
    return ", ".join(str(b) for b in data)


def _parameter(port: Port) -> str:
    return f"{c_type(port.dtype)} {identifier(port.c_name)}[{max(1, prod(port.shape))}]"


def _describe(port: Port, program: Program) -> str:
    way = "input " if port in program.inputs else "output"
    text = f"{way} {identifier(port.c_name)}: {port.dtype}[{','.join(map(str, port.shape))}]"
    return text if port.name == port.c_name else f"{text}, called {comment(port.name)} in the model"


def device_abi() -> str:
    """What drivers and models have in common."""
    return fill("device.h", {})


def example(program: Program, *, hosted: bool = True) -> str:
    """main.c: runs and times the model on raw files; without an operating system, the least that runs it at all."""
    if not hosted:
        return _bare_example(program)
    return _with_ports("main.c", identifier(program.name), [asdict(p) for p in program.inputs], [asdict(p) for p in program.outputs],
                       {**c_units.example(program), **_prepare_example(program)})


def _prepare_example(program: Program) -> dict[str, str]:
    """How main.c prepares: on its threads, and without keeping what only that reads."""
    name = identifier(program.name)
    if not program.prepare:
        return {"RELEASE": "", "PREPARE": f"{name}_prepare(args.weights, args.prepared)"}
    return {"RELEASE": fill("release.c", {}), "PREPARE": f"{name}_prepare_with(args.weights, args.prepared, rt, release, NULL)"}


def _bare_example(program: Program) -> str:
    name, ports = identifier(program.name), (*program.inputs, *program.outputs)
    kept = [(region, size) for region, size in (("prepared", program.prepared_bytes), ("state", program.state_bytes)) if size]
    memory = [f"static {_parameter(p)};" for p in ports]
    memory += [f"static unsigned char {region}[{size}] __attribute__((aligned({name}_ALIGNMENT)));" for region, size in kept]
    prepare = f"  {name}_prepare({name}_weights, prepared);\n" if program.prepared_bytes else ""
    arguments = [*(["devices"] if program.units else ()), *(identifier(p.c_name) for p in ports), "arena", *(region for region, _ in kept)]
    return fill("main_bare.c", {"NAME": name, "MEMORY": "\n".join(memory), "PREPARE": prepare, "ARGUMENTS": ", ".join(arguments),
                                **c_units.bare_example(program)})


def runner(name: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> str:
    """The program that holds a model inside an emulator; `inputs` and `outputs` are those of its manifest."""
    return _with_ports("runner.c", name, inputs, outputs)


def _with_ports(template: str, name: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]],
                more: Mapping[str, object] | None = None) -> str:
    def ports(which: Sequence[Mapping[str, Any]]) -> str:
        rows = (f'{{"{identifier(p["c_name"])}", {prod(p["shape"]) * element_bytes(p["dtype"])}}}' for p in which)
        return ", ".join(rows) or "{NULL, 0}"

    return fill(template, {"NAME": name, "IN_PORTS": ports(inputs), "OUT_PORTS": ports(outputs), "IN_COUNT": len(inputs),
                           "OUT_COUNT": len(outputs), **(more or {})})


__all__ = ["address", "c_type", "comment", "device_abi", "element_bytes", "example", "fill", "header", "identifier", "kernel_name", "main",
           "runner"]
