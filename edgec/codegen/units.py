"""Code for GPUs: what goes into the bundle for their drivers."""

from collections.abc import Mapping

from edgec.codegen.bundle import UnitCode
from edgec.codegen.cuda import cubin
from edgec.codegen.schedule import Schedule
from edgec.isa import Device, Gpu
from edgec.kernels.gpu.emit import source
from edgec.kernels.gpu.plan import GpuPlan


def unit_codes(made: Schedule, devices: Mapping[str, Device]) -> dict[str, UnitCode]:
    """The code of each GPU that the program uses. ToolMissing names a compiler that is needed."""
    codes = {}
    for unit in made.program.units:
        device = devices[unit.name]
        if not isinstance(device, Gpu):
            continue
        plans = {symbol: plan for symbol, plan in made.launched[unit.name].items() if isinstance(plan, GpuPlan)}
        text = source(plans, device.triple)
        codes[unit.name] = UnitCode("cl", text.encode()) if device.triple == "opencl" else \
            UnitCode("cubin", cubin(text, device.mcpu), {"cu": text.encode()})
    return codes
