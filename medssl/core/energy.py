"""Energy counters of the machine, where they can be read: processor packages (RAPL) and NVIDIA devices (NVML).

They count for the whole machine, so a job's figure includes whatever else runs at the same time.
"""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass, field
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PACKAGES = "intel-rapl:*"
"""AMD's counters have the same names. Sub-zones (`intel-rapl:0:1`) are part of their package and are skipped."""


@dataclass(frozen=True)
class Counters:
    """A reading of the counters: by name, joules and the value at which a counter wraps around (0: never)."""

    joules: dict[str, float] = field(default_factory=dict)
    wraps_at: dict[str, float] = field(default_factory=dict)

    def since(self, before: Counters) -> dict[str, float]:
        """Joules by counter between two readings; one wrap-around of a counter is corrected."""
        found = {name: self.joules[name] - before.joules[name] for name in sorted(set(self.joules) & set(before.joules))}
        found = {name: used if used >= 0 else used + self.wraps_at.get(name, 0.0) for name, used in found.items()}
        return {name: round(used, 3) for name, used in found.items() if used >= 0}


def read_counters(powercap: Path = POWERCAP) -> Counters:
    """All counters that this process may read; none on most shared machines."""
    joules: dict[str, float] = {}
    wraps_at: dict[str, float] = {}
    for zone in sorted(powercap.glob(PACKAGES)):
        if zone.name.count(":") == 1:
            with contextlib.suppress(OSError, ValueError):
                joules[f"cpu{zone.name.split(':')[1]}"] = int((zone / "energy_uj").read_text()) / 1e6
                wraps_at[f"cpu{zone.name.split(':')[1]}"] = int((zone / "max_energy_range_uj").read_text()) / 1e6
    return Counters(joules | _devices(), wraps_at)


def _devices() -> dict[str, float]:
    """Joules of each NVIDIA device since its driver was loaded (NVML counts millijoules)."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return {}
    if library.nvmlInit_v2() != 0:
        return {}
    count, found = ctypes.c_uint(), {}
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for number in range(count.value):
        device, used = ctypes.c_void_p(), ctypes.c_ulonglong()
        if library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device)) != 0:
            continue
        if library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(used)) == 0:
            found[f"gpu{number}"] = used.value / 1e3
    library.nvmlShutdown()
    return found
