"""No library of a job starts more threads than the job was given."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys
from medssl.cli.step import limit_threads
limit_threads(int(sys.argv[1]))
import faiss, numpy, pyarrow, scipy.linalg, sklearn, torch
from threadpoolctl import threadpool_info
found = {f"{pool['internal_api']} {number}": pool["num_threads"] for number, pool in enumerate(threadpool_info())}
found |= {"torch": torch.get_num_threads(), "pyarrow": pyarrow.cpu_count(), "faiss": faiss.omp_get_max_threads()}
print(json.dumps(found))
"""


def test_every_pool_of_threads_is_held_to_the_job() -> None:
    threads = 1
    # blosc2 gets its one thread at each use (volume/cache.py)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(threads)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    pools = json.loads(done.stdout.splitlines()[-1])
    assert len(pools) >= 5 and {name: count for name, count in pools.items() if count > threads} == {}
