"""The server of warm programs outlives its clients."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import warm


def test_a_client_that_is_killed_takes_its_program_with_it_and_nothing_else(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    client = subprocess.Popen([warm.python(), str(script)], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    program = psutil.Process(int(client.stdout.readline()))
    client.kill()
    client.wait()
    psutil.wait_procs([program], timeout=30)
    assert not program.is_running()
    script.write_text("import sys\nprint(sys.argv[1])\nsys.exit(3)\n")
    done = subprocess.run([warm.python(), str(script), "here"], capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stdout) == (3, "here\n"), done.stderr
