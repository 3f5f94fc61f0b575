"""`make mutants`: break the library on purpose, one small change at a time, and see that the tests of its package notice.

`python tests/mutants/run.py [word …] [--jobs 2] [--limit-s 240]`; with words, only mutations of such a package, or whose sentence
holds one.

Every change of `mutations.py` is made in a copy of the tree, never in the tree itself, and meets the tests it names. Prints
`killed` or `ALIVE` as they are decided; the last line is `RESULT {"killed": …, "alive": …}`. Exit code 1 if any is alive, 2 if
the tests fail on the sound library or do not run, so that nothing can be said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations import MUTATIONS, Mutation, home, named_tests

ROOT = Path(__file__).resolve().parent.parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".hypothesis", ".snakemake", ".medssl", "__pycache__", ".*_cache", "results", "wheelhouse"
)
FAILED, NOTHING_WRONG, OUT_OF_TIME = 1, 0, -1
"""Exit codes of pytest, and what stands for one that did not end."""


class NoAnswerError(Exception):
    """A test run from which nothing follows."""


def main() -> int:
    """Run the chosen mutations; the exit code."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("words", nargs="*", help="packages, or parts of sentences: only these mutations")
    arguments.add_argument("--jobs", type=int, default=1, help="how many test runs at a time")
    arguments.add_argument("--limit-s", type=float, default=240.0, help="a mutant whose tests take longer is killed")
    given = arguments.parse_args()
    chosen = [m for m in MUTATIONS if not given.words or any(is_meant(m, word) for word in given.words)]
    counts = {"killed": 0, "alive": 0}
    with tempfile.TemporaryDirectory(prefix="medssl-mutants-") as place:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(given.jobs):
            copies.put(shutil.copytree(ROOT, Path(place) / str(number) / "medssl", ignore=LEFT_OUT, symlinks=True))
        try:
            with borrowed(copies) as copy:
                check_sound(copy, chosen, given.limit_s)
            with ThreadPoolExecutor(given.jobs) as pool:
                for mutation, (killer, skipped) in pool.map(lambda m: (m, killer_of(m, copies, given.limit_s)), chosen):
                    counts["killed" if killer else "alive"] += 1
                    line = f"{mutation.package:9} {mutation.breaks}"
                    print(f"killed  {line}  ({killer})" if killer else f"ALIVE   {line}{skipped}", flush=True)
        except (LookupError, NoAnswerError) as error:
            print(error, file=sys.stderr)
            return 2
    print(f"RESULT {json.dumps(counts)}")
    return 1 if counts["alive"] else 0


def is_meant(mutation: Mutation, word: str) -> bool:
    """Whether a word names a mutation: its package, else some of its sentence."""
    return word == mutation.package if word in {m.package for m in MUTATIONS} else word in mutation.breaks


def check_sound(copy: Path, chosen: list[Mutation], limit_s: float) -> None:
    """See that every anchor is there once and that the tests pass on the sound library: else a failure says nothing.

    Raises:
        LookupError: an anchor is missing or stands more than once.
        NoAnswerError: a test fails without any mutation.
    """
    for mutation in chosen:
        home(copy, mutation)
    tests = list(dict.fromkeys(test for mutation in chosen for test in named_tests(copy, mutation)))
    print(f"{len(chosen)} mutations, {len(tests)} tests; first the tests on the sound library", flush=True)
    status, said = pytest(copy, tests, limit_s=10 * limit_s)
    if status != NOTHING_WRONG:
        raise NoAnswerError(f"{said}\nThe tests fail without any mutation. Mend them first: until then a failure says nothing.")


def killer_of(mutation: Mutation, copies: queue.Queue[Path], limit_s: float) -> tuple[str, str]:
    """(The test that notices the mutation, `time` where the tests do not end, nothing if it is alive; tests that were skipped.)

    Raises:
        NoAnswerError: the tests did not run.
    """
    with borrowed(copies) as copy:
        file = home(copy, mutation)
        sound = file.read_text(encoding="utf-8")
        file.write_text(sound.replace(mutation.old, mutation.new), encoding="utf-8")
        try:
            status, said = pytest(copy, named_tests(copy, mutation), limit_s=limit_s)
        finally:
            file.write_text(sound, encoding="utf-8")
    if status not in (FAILED, NOTHING_WRONG, OUT_OF_TIME):
        raise NoAnswerError(
            f"{said}\n{mutation.package}, {mutation.breaks}: pytest ended with {status}, so its tests did not run."
        )
    failed = re.search(r"^(?:FAILED|ERROR) \S*::(\S+)", said, re.MULTILINE)
    skipped = "".join(f"  (skipped: {reason})" for reason in re.findall(r"^SKIPPED \[\d+\] (.*)$", said, re.MULTILINE))
    killer = "" if status == NOTHING_WRONG else "time" if status == OUT_OF_TIME else failed.group(1) if failed else "pytest"
    return killer, skipped


@contextlib.contextmanager
def borrowed(copies: queue.Queue[Path]) -> Iterator[Path]:
    """A copy of the tree that nobody else works in."""
    copy = copies.get()
    try:
        yield copy
    finally:
        copies.put(copy)


def pytest(copy: Path, tests: list[str], *, limit_s: float) -> tuple[int, str]:
    """Exit code of pytest on some tests of a copy (`OUT_OF_TIME` past the limit), and the end of what it said."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfEs", "-p", "no:cacheprovider", "--hypothesis-seed=0", *tests]
    # Byte code is not kept: it is known by second and size, and a mutant may be as long and as old as what it replaces.
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return OUT_OF_TIME, ""
    return process.returncode, said[-3000:]


if __name__ == "__main__":
    sys.exit(main())
