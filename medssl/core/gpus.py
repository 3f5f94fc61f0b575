"""A lease on GPUs: two jobs on one machine, of one study or of two, never share one by accident."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

from medssl.core.shown import say

LOOK_AGAIN_S = 2.0


@contextlib.contextmanager
def lease(count: int) -> Iterator[list[str]]:
    """Inside, `CUDA_VISIBLE_DEVICES` names `count` GPUs that no other job on this machine holds; waits until so many are free.

    Must begin before torch looks for devices. A lease is a socket in Linux's abstract name space, which the kernel frees however
    the process ends. Nothing is leased on a machine with fewer than `count` visible GPUs.
    """
    seen = visible()
    if count < 1 or len(seen) < count:
        yield []
        return
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with contextlib.ExitStack() as held:
        got = _take(seen, count, held)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(got)
        try:
            yield got
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def visible() -> list[str]:
    """UUIDs of the GPUs that this process may use: all, or those already in `CUDA_VISIBLE_DEVICES`."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        query = [program, "--query-gpu=uuid", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
        found = [line.strip() for line in done.stdout.splitlines() if done.returncode == 0 and line.strip()]
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if chosen is None:
            return found
        words = [word.strip() for word in chosen.split(",") if word.strip()]
        return [found[int(w)] if w.isdigit() and int(w) < len(found) else w for w in words]
    return []


def memory_mb() -> float:
    """Memory of the machine's smallest GPU; 0 without one."""
    program = shutil.which("nvidia-smi")
    query = ["--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run([program, *query], capture_output=True, text=True, timeout=60) if program else None
    return min((float(line) for line in done.stdout.split()), default=0.0) if done and done.returncode == 0 else 0.0


def _take(seen: list[str], count: int, held: contextlib.ExitStack) -> list[str]:
    """The first `count` free GPUs, or none: no job holds some while it waits for the rest."""
    waiting = False
    while True:
        with contextlib.ExitStack() as trying:
            got: list[str] = []
            for uuid in seen:
                if len(got) < count and _held(uuid, trying):
                    got.append(uuid)
            if len(got) == count:
                held.enter_context(trying.pop_all())
                return got
        if not waiting:
            say(f"waiting for {count} of {len(seen)} GPUs: other jobs of this machine hold them")
            waiting = True
        time.sleep(LOOK_AGAIN_S)


def _held(uuid: str, stack: contextlib.ExitStack) -> bool:
    """Take the lease on one GPU; False if another process holds it."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(f"\0medssl-gpu-{uuid}")
    except OSError:
        lock.close()
        return False
    stack.callback(lock.close)
    return True
