"""A GPU in eight minutes: what runs, what is equal, and the speed of pre-training and fine-tuning compared with other libraries.

Each section runs in a process of its own, is killed at its limit, and prints what it finds as it comes; one that fails or runs
out of time stops no other. `--small` runs all of them on the processor in tiny sizes, to see that they work: those of one file
share a process there, and speeds mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FOUND, ENDED = "FOUND ", "ENDED "
"""What a line of a section's process begins with that has figures, and the one that says that a section is done."""
SECTIONS: dict[str, tuple[str, float]] = {
    "objectives_2d": ("training", 40),
    "objectives_3d": ("training", 35),
    "equal_bits": ("training", 45),
    "compiled": ("training", 55),
    "real_loop": ("speed", 80),
    "views": ("speed", 20),
    "spark": ("speed", 15),
    "small_unet": ("speed", 30),
    "vit_loop": ("transformers", 30),
    "vit_volumes": ("transformers", 15),
    "mae_tokens": ("transformers", 10),
    "segmentation_fits": ("fits", 70),
    "classification": ("fits", 20),
    "predict": ("fits", 15),
}
"""By section the file that it is in, and its limit in seconds; together eight minutes."""
SMALL_LIMIT_S = 300.0
"""The limit of each section with `--small`."""
SMALL_AT_ONCE = 2
"""Processes that run side by side with `--small`, where no speed is measured."""
CLAIMS = ("finite", "equal", "as_eager")
"""Figures that are to be true."""
PACKAGES = ("torch", "monai", "numpy", "lightning-fabric", "lightly", "torchvision", "kornia")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="every section on the processor in tiny sizes; results are not kept")
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME", help=", ".join(SECTIONS)
    )
    parser.add_argument("--limit-s", type=float, help="limit of each section, instead of its own")
    parser.add_argument("--out", type=Path, help="folder to write gpu.json to, after every section")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # the folder of a section's own process
    options = parser.parse_args()
    if options.work is not None:
        return run_here(options.sections, options.work, small=options.small, limit_s=options.limit_s)
    device = found_device(small=options.small)
    if device is None:
        sys.exit("bench-gpu: torch sees no CUDA device here. Run it where there is one, or with --small on the processor.")
    found: dict[str, Any] = {"device": device, "small": options.small, "versions": versions(), "sections": {}}
    found["date"] = datetime.now(UTC).date().isoformat()
    print(f"{device}; {', '.join(f'{name} {number}' for name, number in found['versions'].items())}", flush=True)
    start_s = time.monotonic()

    def run(names: list[str]) -> dict[str, Any]:
        limit_s = options.limit_s or (SMALL_LIMIT_S if options.small else SECTIONS[names[0]][1])
        return run_sections(names, small=options.small, limit_s=limit_s)

    with ThreadPoolExecutor(SMALL_AT_ONCE if options.small else 1) as pool:
        for sections in pool.map(run, together(options.sections, small=options.small)):
            found["sections"] |= sections
            found["claims"] = claims(found["sections"])
            found["seconds"] = round(time.monotonic() - start_s, 1)
            for folder in kept_in(options.out, whole=not options.small and options.sections == list(SECTIONS)):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    held = found["claims"]
    print(f"{held['checked']} claims looked at; not held: {', '.join(held['not_held']) or 'none'}")
    print("RESULT " + json.dumps(found))


def claims(sections: dict[str, Any]) -> dict[str, Any]:
    """What was to be true: that each section ends, that each try runs and is finite, equal, as eager; and what was not."""
    ended = {name: section["ended"] == "done" for name, section in sections.items()}
    tries = {
        f"{name} · {what}": "failed" not in figures and all(figures.get(word, True) for word in CLAIMS)
        for name, section in sections.items()
        for what, figures in section["found"].items()
    }
    held = ended | tries
    return {
        "checked": len(held),
        "num_not_held": len(held) - sum(held.values()),
        "not_held": [n for n, yes in held.items() if not yes],
    }


def kept_in(out: Path | None, *, whole: bool) -> list[Path]:
    """Where results are written: a folder that was asked for, and that of the results that docs are made of."""
    return [folder for folder in (out, RESULTS if whole else None) if folder is not None]


def together(names: list[str], *, small: bool) -> list[list[str]]:
    """Sections by the process that they run in: each in its own, with `--small` those of a file in one."""
    if not small:
        return [[name] for name in names]
    return [[name for name in names if SECTIONS[name][0] == file] for file in dict.fromkeys(SECTIONS[name][0] for name in names)]


def run_sections(names: list[str], *, small: bool, limit_s: float) -> dict[str, Any]:
    """What sections found in a process of their own, by name."""
    with tempfile.TemporaryDirectory(prefix="medssl-gpu-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--work", folder, "--limit-s", str(limit_s)]
        command += ["--sections", *names, *(["--small"] if small else [])]
        return run_limited(names, command, limit_s)


def run_limited(names: list[str], command: list[str], limit_s: float) -> dict[str, Any]:
    """What a process prints of each section after `FOUND`, and how the section ended: `done`, `failed: …` or `out of time`.

    The process and what it started are killed at the limit.
    """
    start_s = time.monotonic()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))}
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    done: dict[str, float] = {}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True
        )
        late = threading.Event()
        clock = threading.Timer(limit_s, lambda: (late.set(), kill_group(process)))
        clock.start()
        for line in process.stdout or ():
            if line.startswith(FOUND):
                name, what, figures = json.loads(line[len(FOUND) :])
                found[name][what] = figures
                print(f"{name} · {what}: {', '.join(f'{key} {value}' for key, value in figures.items())}", flush=True)
            elif line.startswith(ENDED):
                done[line[len(ENDED) :].strip()] = round(time.monotonic() - start_s, 1)
        code = process.wait()
        clock.cancel()
        kill_group(process)  # what it may have left behind
        errors.seek(0)
        said = errors.read().strip().splitlines()
    otherwise = "out of time" if late.is_set() else f"failed: {said[-1] if said else f'code {code}'}"[:300]
    spent_s = round(time.monotonic() - start_s, 1)
    for name in names:
        print(
            f"{name} · {'done' if name in done else otherwise}, {done.get(name, spent_s)} s after its process began", flush=True
        )
    return {
        name: {"ended": "done" if name in done else otherwise, "seconds": done.get(name, spent_s), "found": found[name]}
        for name in names
    }


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a process that leads a session, and all that is left of it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run_here(names: list[str], folder: Path, *, small: bool, limit_s: float) -> None:
    """Sections in this process, each in a folder of its own."""
    if small:
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    from gpu_sections.made import Place

    for name in names:
        section = getattr(importlib.import_module(f"gpu_sections.{SECTIONS[name][0]}"), name)
        (folder / name).mkdir()
        for what, figures in section(Place(folder / name, small, "cpu" if small else "cuda", limit_s)):
            print(FOUND + json.dumps([name, what, figures]), flush=True)
        print(ENDED + name, flush=True)


def found_device(*, small: bool) -> str | None:
    """The GPU's name, seen by another process so that this one takes none of its memory; None where there is none."""
    if small:
        return "processor"
    code = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() or None


def versions() -> dict[str, str]:
    """What the figures depend on."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
