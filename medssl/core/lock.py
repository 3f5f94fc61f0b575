"""A lock that the kernel frees when its process ends: of two runs on the same results, one waits or is refused."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from medssl.core.errors import LockedError


@contextlib.contextmanager
def hold(lock: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file; the kernel frees it when the process ends, however it ends.

    Raises:
        LockedError: another process still holds it after `wait_s` seconds.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a+") as file:
        deadline_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise LockedError(
                        f"{lock} cannot be locked: {error.strerror}. This file system has no locks, so that two runs at once "
                        "would not be noticed; set `output` in the study file to one that has (Lustre: mounted with -o flock)."
                    ) from error
                if time.monotonic() >= deadline_s:
                    file.seek(0)
                    raise LockedError(
                        f"{lock.parent.parent.name} is in use by {file.read().strip() or 'another process'} ({lock}). "
                        "Wait for it to end, or set another `output` in the study file."
                    ) from None
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield
