"""What plug-ins declare has one hash, whatever the seed of the process's own hashes."""

from __future__ import annotations

import os
import subprocess
import sys

CALL = "from medssl.core.plugins import declared; print(declared())"


def test_every_process_finds_the_same_hash() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", CALL],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(found) == 1
