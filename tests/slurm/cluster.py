"""A real SLURM on one machine: munged, slurmctld and one slurmd per node, all below one temporary folder, stopped at the end.

Needs root (munged runs as its own user, slurmd starts jobs for others) and Debian's packages, which `install` fetches.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "munged")
CONFIGURED = Path("/etc/slurm/slurm.conf")
"""Where clients look without SLURM_CONF, which the executor plug-in takes out of a job's environment."""

CONFIGURATION = """\
ClusterName=medssl
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={control_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=3,sched_interval=3
ReturnToService=2
MinJobAge=3600
KillWait=20
OverTimeLimit=0
JobRequeue=1
{nodes}
PartitionName=main Default=YES Nodes=ALL MaxTime=INFINITE State=UP
"""


class NotPossibleHereError(RuntimeError):
    """This machine cannot have a test SLURM; the message says why. Nothing was started, so the test is skipped."""


class BrokenSlurmError(RuntimeError):
    """SLURM is installed and does not run; the message says what its daemons said. The test fails."""


@dataclass(frozen=True)
class Cluster:
    """A running SLURM."""

    folder: Path

    def call(self, *command: str) -> str:
        """Output of a client command."""
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def jobs(self) -> list[dict[str, str]]:
        """What `scontrol show job` knows of every job so far, by key."""
        lines = self.call("scontrol", "show", "job", "--oneliner").splitlines()
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines if line.startswith("JobId=")]


@contextlib.contextmanager
def running(*, cpus: int = 2, memory_mb: int = 100000) -> Iterator[Cluster]:
    """A SLURM with one node of `cpus` processors; its daemons end with the block.

    Raises:
        NotPossibleHereError: not root, no packages and no way to install them, or a SLURM of the machine's own.
        BrokenSlurmError: a daemon did not start.
    """
    install()
    folder = Path(tempfile.mkdtemp(prefix="medssl-slurm-"))
    folder.chmod(0o755)
    node = f"NodeName=node1 NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={_free_port()}"
    text = CONFIGURATION.format(
        host=socket.gethostname(),
        folder=folder,
        control_port=_free_port(),
        nodes=f"{node} CPUs={cpus} RealMemory={memory_mb} State=UNKNOWN",
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "state").mkdir()
    cluster = Cluster(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _link_configuration(folder / "slurm.conf", stack)
        _start_munge(folder, stack)
        _start(["slurmctld", "-D", "-c"], cluster, stack)
        _start(["slurmd", "-D", "-c", "-N", "node1"], cluster, stack)
        _wait_until_idle(cluster)
        stack.callback(_end_jobs, cluster)
        yield cluster


def install() -> None:
    """Fetch the packages where they are missing. What fails after this is a defect, and no reason to skip the test.

    Raises:
        NotPossibleHereError: not root, no way to install them, or a SLURM of the machine's own.
    """
    if os.geteuid() != 0:
        raise NotPossibleHereError("a test SLURM needs root: munged runs as its own user, and slurmd starts jobs for others")
    if CONFIGURED.is_symlink() and not CONFIGURED.exists():
        CONFIGURED.unlink()  # left by a test that was killed
    if CONFIGURED.exists():
        raise NotPossibleHereError(f"{CONFIGURED} exists: this machine has a SLURM of its own, which the test leaves alone")
    if all(shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") for program in PROGRAMS):
        return
    if shutil.which("apt-get") is None:
        raise NotPossibleHereError(
            f"{', '.join(PROGRAMS)} are not here, and there is no apt-get to install {', '.join(PACKAGES)}"
        )
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True, "text": True}
    subprocess.run(["apt-get", "update"], **quiet)
    done = subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES], **quiet)
    if done.returncode:
        raise NotPossibleHereError(f"apt-get could not install {', '.join(PACKAGES)}: {done.stderr.strip().splitlines()[-1:]}")


def _link_configuration(text: Path, stack: contextlib.ExitStack) -> None:
    CONFIGURED.parent.mkdir(parents=True, exist_ok=True)
    CONFIGURED.symlink_to(text)
    stack.callback(CONFIGURED.unlink)


def _start_munge(folder: Path, stack: contextlib.ExitStack) -> None:
    home = folder / "munge"
    home.mkdir(mode=0o711)
    (home / "key").write_bytes(secrets.token_bytes(128))
    (home / "key").chmod(0o400)
    user = pwd.getpwnam("munge")
    for path in (home, home / "key"):
        os.chown(path, user.pw_uid, user.pw_gid)
    folder_of = {
        "socket": folder / "munge.socket",
        "log-file": home / "log",
        "pid-file": home / "pid",
        "seed-file": home / "seed",
    }
    folder.chmod(0o755)
    os.chown(folder, user.pw_uid, user.pw_gid)
    options = [f"--{name}={path}" for name, path in {**folder_of, "key-file": home / "key"}.items()]
    program = shutil.which("munged", path=f"{os.environ['PATH']}:/usr/sbin") or "munged"
    command = [program, "--foreground", *options]
    with open(folder / "munged-start.log", "wb") as log:
        _keep(subprocess.Popen(command, user=user.pw_uid, group=user.pw_gid, stdout=log, stderr=log), stack)
    _wait(lambda: (folder / "munge.socket").exists(), "munged did not start")


def _start(command: list[str], cluster: Cluster, stack: contextlib.ExitStack) -> None:
    program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin") or command[0]
    with open(cluster.folder / f"{command[0]}-start.log", "wb") as log:
        _keep(subprocess.Popen([program, *command[1:]], stdout=log, stderr=log), stack)


def _keep(process: subprocess.Popen[bytes], stack: contextlib.ExitStack) -> None:
    def stop() -> None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)


def _end_jobs(cluster: Cluster) -> None:
    """Kill what still runs, which would outlive the daemons, and wait until it is gone."""
    with contextlib.suppress(subprocess.CalledProcessError, BrokenSlurmError):
        cluster.call("scancel", "--user=root")
        _wait(lambda: not cluster.call("squeue", "--noheader").strip(), "jobs did not end", timeout_s=60)


def _wait_until_idle(cluster: Cluster) -> None:
    def idle() -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            return cluster.call("sinfo", "--noheader", "--format=%t").split() == ["idle"]
        return False

    try:
        _wait(idle, "slurmctld and slurmd did not become ready")
    except BrokenSlurmError as error:
        tails = [f"{log.name}:\n{log.read_text()[-1500:]}" for log in sorted(cluster.folder.glob("*.log"))]
        raise BrokenSlurmError("\n".join([str(error), *tails])) from None


def _wait(condition: object, otherwise: str, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline_s:
            raise BrokenSlurmError(otherwise)
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
