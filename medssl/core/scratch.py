"""Copies on the node's own disk: with MEDSSL_SCRATCH set, arrays cross a network file system once.

The variable belongs to the machine, not the study: results are equal with and without it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from medssl.core.errors import DiskFullError
from medssl.core.files import sha256_file, writing
from medssl.core.job import Job

VARIABLE = "MEDSSL_SCRATCH"


def scratch_folder() -> Path | None:
    """The folder for copies: MEDSSL_SCRATCH, with variables of the node (`$TMPDIR`) expanded; None if it is unset.

    Raises:
        PermissionError: the folder cannot be created, or belongs to another user.
    """
    text = os.path.expandvars(os.environ.get(VARIABLE, ""))
    if not text or "$" in text:
        return None
    folder = Path(text) / f"medssl-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError("the folder there belongs to another user")
    return folder


def local_copy(job: Job, path: Path | str) -> Path:
    """`path`, verified as `Job.read` does, or its copy in the scratch folder; named by content, so that jobs share it.

    If space or permission is missing, the file itself is used, and the log says so.
    """
    path = job.read(path)
    sha256 = job.hash_of(path)
    try:
        folder = scratch_folder()
        if folder is None or sha256 is None:
            return path
        copy = folder / f"{sha256}{path.suffix}"
        if copy.is_file() and sha256_file(copy) == sha256:
            return copy
        with writing(copy) as temporary:
            shutil.copyfile(path, temporary)
    except DiskFullError as error:
        job.log(f"{path.name} is read where it lies, not from {VARIABLE}: {error}")
        return path
    except OSError as error:
        job.log(f"{path.name} is read where it lies, not from {VARIABLE}: {error.strerror or error}")
        return path
    return copy
