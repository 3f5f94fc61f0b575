"""A job over several nodes: one process for each device, started once by srun or torchrun; the first of them owns the results."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence

from medssl.core import cluster
from medssl.core.errors import StudyError
from medssl.core.job import Spec


def rank(spec: Spec) -> int:
    """The number of this process in its job; 0 for a job of one node, which starts its other processes itself."""
    if _nodes(spec) == 1:
        return 0
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def spread(spec: Spec, threads: int) -> None:
    """Hand a job over several nodes to srun, unless srun or torchrun has started this very process for it.

    Raises:
        StudyError: there is neither an allocation nor a launcher.
    """
    if _nodes(spec) == 1 or started(os.environ, _nodes(spec) * _devices(spec)):
        return
    srun = shutil.which("srun")
    if not cluster.in_allocation() or srun is None:
        raise StudyError(
            f"{spec.stage} {spec.name} has nodes: {_nodes(spec)}, and this is one machine. Run the study with a SLURM profile, "
            "start the job with torchrun on each node, or set nodes: 1."
        )
    line = srun_line(_nodes(spec), _devices(spec), threads, [sys.executable, "-m", "medssl", *sys.argv[1:]])
    os.execv(srun, line)  # noqa: S606  (no shell: the words of the line are the arguments)


def let_the_first_end() -> None:
    """Wait in a process that has stopped as asked. srun ends all processes when the first one leaves, and only the first process
    may
    requeue the job, so that one should leave first. srun then ends this wait; other launchers do not, so it has a limit.
    """
    time.sleep(2 * cluster.ANSWER_S)


def started(environment: Mapping[str, str], wanted: int) -> bool:
    """True if a launcher has started `wanted` processes, of which this is one."""
    if "TORCHELASTIC_RUN_ID" in environment:
        return True
    return environment.get("SLURM_STEP_NUM_TASKS") == str(wanted)


def srun_line(nodes: int, devices: int, threads: int, command: Sequence[str]) -> list[str]:
    """The one srun of a job: a process for each device; the threads of a node are divided among its processes.

    The size is given in full, because the options of sbatch do not reach this process. If one process dies, srun ends all.
    """
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes * devices}",
        f"--ntasks-per-node={devices}",
        f"--cpus-per-task={max(1, threads // devices)}",
        "--overlap",
        "--kill-on-bad-exit=1",
        *command,
    ]


def _nodes(spec: Spec) -> int:
    return spec.machine.nodes


def _devices(spec: Spec) -> int:
    return spec.machine.processes
