"""C for units beside the CPU: copies, launches, the table of units, and what headers and examples say about them.

A model for the CPU alone gets none of it: each function answers with empty texts then.
"""

from collections.abc import Mapping
from pathlib import Path

from edgec.codegen.c_text import address, identifier
from edgec.codegen.program import HOST, Copy, Launch, Operand, Program, Wait
from edgec.codegen.weights import HEADER_BYTES

_RUNTIME = Path(__file__).parent / "runtime"
_BOUND = frozenset({"ethosu"})
"""Drivers that call another one, which is part of the user's program."""
_HEADER = ("DEVICE_ABI", "ARGS_UNITS", "DECLARE_UNITS", "PARAMETER_UNITS", "ASSIGN_UNITS", "ARGUMENT_UNITS")
_MAIN = ("FRAME_UNITS", "UNITS", "CHECK_UNITS", "BIND_UNITS")
_EXAMPLE = ("INCLUDE_UNITS", "DECLARE_UNITS", "OPEN_UNITS", "EXPLAIN_UNITS", "CLOSE_UNITS")


def header(program: Program) -> Mapping[str, str]:
    """What the header says more."""
    if not program.units:
        return dict.fromkeys(_HEADER, "")
    name = identifier(program.name)
    codes = "".join(f"extern const unsigned char {name}_{identifier(u.name)}_code[], {name}_{identifier(u.name)}_code_end[];\n"
                    for u in program.units)
    return {
        "DEVICE_ABI": (_RUNTIME / "device.h").read_text() + f"\n#define {name}_UNITS {len(program.units)}\n",
        "ARGS_UNITS": "  const edgec_device* const* devices; /* one for each unit, in the order of "
                      f"{name}_units; each serves one run at a time */\n",
        "DECLARE_UNITS": f"""
/* The units beside the CPU on which the model runs, and their code, when {name}_weights.S is part of the program. A driver
   (edgec_opencl.h, edgec_cuda.h, or your own) makes a device of both and the weights. */
extern const edgec_unit {name}_units[{len(program.units)}];
{codes}""",
        "PARAMETER_UNITS": "const edgec_device* const* devices, ", "ASSIGN_UNITS": "  args.devices = devices;\n",
        "ARGUMENT_UNITS": "devices, "}


def main(program: Program) -> Mapping[str, str]:
    """What the schedule holds more."""
    if not program.units:
        return dict.fromkeys(_MAIN, "")
    name = identifier(program.name)
    return {
        "FRAME_UNITS": "  const edgec_device* const* devices;\n", "BIND_UNITS": "  f.devices = a->devices;\n",
        "UNITS": _table(program, name),
        "CHECK_UNITS": f"""  if (a->devices == NULL) return {name}_NO_DEVICE;
  for (i = 0; i < {len(program.units)}; i++) {{
    if (a->devices[i] == NULL) return {name}_NO_DEVICE;
    if (a->devices[i]->size < sizeof(edgec_device) || a->devices[i]->version != EDGEC_DEVICE) return {name}_ABI;
  }}
"""}


def _table(program: Program, name: str) -> str:
    lists, rows = "", ""
    for i, unit in enumerate(program.units):
        names = ", ".join(f'"{program.kernels[k].symbol}"' for k in unit_kernels(program, unit.name))
        lists += f"static const char* const kernels_{i}[] = {{{names}}};\n"
        offset = HEADER_BYTES + unit.weights_offset if unit.weights_bytes else 0
        rows += (f'  {{sizeof(edgec_unit), EDGEC_DEVICE, "{unit.name}", "{unit.driver}", {unit.arena_bytes}u, {offset}u, '
                 f"{unit.weights_bytes}u,\n   kernels_{i}, {len(unit_kernels(program, unit.name))}}},\n")
    return f"{lists}\nconst edgec_unit {name}_units[{len(program.units)}] = {{\n{rows}}};\n\n"


def unit_kernels(program: Program, unit: str) -> list[str]:
    """The keys of a unit's kernels in the order of their numbers."""
    return list(dict.fromkeys(s.kernel for s in program.calls if isinstance(s, Launch) and s.unit == unit))


def has_driver(driver: str) -> bool:
    """Whether edgec brings the driver in C: for others there is an interface that a user binds his own to."""
    return (_RUNTIME / f"edgec_{driver}.c").exists()


def has_library(driver: str) -> bool:
    """Whether that driver is also a library, which needs nothing but the C library: others call what a program brings."""
    return has_driver(driver) and driver not in _BOUND


def cmake(program: Program) -> Mapping[str, str]:
    """What the CMake file says more: the drivers that come with the model."""
    drivers = sorted({u.driver for u in program.units if has_driver(u.driver)})
    made = "".join(f"""
if(NOT TARGET edgec::{d})
  add_library(edgec_{d} STATIC ${{CMAKE_CURRENT_SOURCE_DIR}}/edgec_{d}.c)
  target_include_directories(edgec_{d} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
  target_link_libraries(edgec_{d} PUBLIC ${{CMAKE_DL_LIBS}})
  set_target_properties(edgec_{d} PROPERTIES C_STANDARD 11)
  add_library(edgec::{d} ALIAS edgec_{d})
endif()
""" for d in drivers)
    return {"DRIVERS": made, "LINK_DRIVERS": "".join(f" edgec::{d}" for d in drivers)}


def step(program: Program, step: Copy | Launch | Wait) -> str:
    """The body of the function of a step."""
    name, number = identifier(program.name), program.unit(step.unit)
    head = f"  const edgec_device* d = f->devices[{number}];\n"
    idle = "  (void)begin;\n  (void)end;\n"
    match step:
        case Wait():
            call = "d->finish(d->ctx)"
        case Copy(operands=(source, target)) if program.buffers[source.buffer].unit == HOST:
            place = program.buffers[target.buffer].offset + target.offset
            call = f"d->write(d->ctx, {place}u, {address(program, source)}, {step.bytes}u)"
        case Copy(operands=(source, target)):
            place = program.buffers[source.buffer].offset + source.offset
            call = f"d->read(d->ctx, {place}u, {address(program, target)}, {step.bytes}u)"
        case Launch():
            kernel = unit_kernels(program, step.unit).index(step.kernel)
            facts = f'{{"{program.kernels[step.kernel].symbol}", {kernel}u, {len(step.operands)}u, {step.tasks}u, {step.group}u}}'
            head += f"  static const edgec_launch what = {facts};\n"
            head += f"  edgec_operand o[{max(1, len(step.operands))}];\n"
            rows = "".join(_operand(program, i, o) for i, o in enumerate(step.operands))
            return f"{head}{idle}{rows}  return d->launch(d->ctx, &what, o) == 0 ? {name}_OK : {name}_DEVICE;"
    return f"{head}{idle}  return {call} == 0 ? {name}_OK : {name}_DEVICE;"


def _operand(program: Program, number: int, operand: Operand) -> str:
    """Statements that set an operand of a launch."""
    buffer = program.buffers[operand.buffer]
    host, offset, region = "NULL", buffer.offset + operand.offset, "EDGEC_UNIT_ARENA"
    if buffer.unit == HOST:
        host, offset = f"(void*)({address(program, operand)})", 0
    elif buffer.region == "weights":
        region = "EDGEC_UNIT_WEIGHTS"
        offset -= program.units[program.unit(buffer.unit)].weights_offset
    values = {"host": host, "offset": f"{offset}u", "bytes": f"{buffer.bytes - operand.offset}u", "region": region,
              "writes": str(int(operand.write))}
    return "".join(f"  o[{number}].{key} = {value};\n" for key, value in values.items())


def bare_example(program: Program) -> Mapping[str, str]:
    """The same without an operating system."""
    if not program.units:
        return {"INCLUDE_UNITS": "", "DEVICES": "", "OPEN_UNITS": ""}
    name, opened = identifier(program.name), ""
    for i, unit in enumerate(program.units):
        code, driver = f"{name}_{identifier(unit.name)}_code", f"edgec_{identifier(unit.driver)}"
        opened += (f"  devices[{i}] = {driver}_create(&{name}_units[{i}], {name}_weights, {code}, (size_t)({code}_end - {code}), message, "
                   f"sizeof message);\n  if (devices[{i}] == NULL) return 2;\n")
    includes = "".join(f'#include "edgec_{d}.h"\n' for d in dict.fromkeys(identifier(u.driver) for u in program.units))
    return {"INCLUDE_UNITS": includes, "OPEN_UNITS": opened,
            "DEVICES": f"static const edgec_device* devices[{name}_UNITS];\nstatic char message[256]; /* why a unit cannot be used */\n"}


def example(program: Program) -> Mapping[str, str]:
    """What the example does more: make a device of each unit, and explain what goes wrong there."""
    if not program.units:
        return dict.fromkeys(_EXAMPLE, "")
    name = identifier(program.name)
    opened = explained = closed = ""
    for i, unit in enumerate(program.units):
        code, driver = f"{name}_{identifier(unit.name)}_code", f"edgec_{identifier(unit.driver)}"
        opened += (f"  devices[{i}] = {driver}_create(&{name}_units[{i}], args.weights, {code}, (size_t)({code}_end - {code}), message, "
                   f'sizeof message);\n  if (devices[{i}] == NULL) stop("{unit.name}", message);\n')
        explained += f'    if (i == {name}_DEVICE && *{driver}_error(devices[{i}])) stop("{unit.name}", {driver}_error(devices[{i}]));\n'
        closed += f"  {driver}_destroy(devices[{i}]);\n"
    includes = "".join(f'#include "edgec_{d}.h"\n' for d in dict.fromkeys(identifier(u.driver) for u in program.units))
    return {
        "INCLUDE_UNITS": includes,
        "DECLARE_UNITS": f'  const edgec_device* devices[{name}_UNITS];\n  char message[1024] = "";\n',
        "OPEN_UNITS": f"{opened}  args.devices = devices;\n", "EXPLAIN_UNITS": explained, "CLOSE_UNITS": closed}
