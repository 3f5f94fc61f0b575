"""Slices per second from a folder of DICOM to the readable cache: medssl, dcm2niix, SimpleITK and dicom2nifti.

The same series of 512² CT slices, uncompressed and in each compressed syntax; whole processes, files in the page cache, the
tools in turn, medians of several rounds and of the ratios within each. Three figures: the whole process; the slices beyond a
series of three, which leaves out the start of the process (Python and its libraries for all but dcm2niix); and slices per second
of processor time, which a busy machine changes least. medssl does all that it always does: listing, header scan, checks, hashes,
ledger, receipt, everything synced to disk, which no other tool does. `least_s` is what of that nobody can leave out.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from medssl.core.files import write_json  # noqa: E402

SMALL = 3
SYNTAXES = ("uncompressed", "jpegls", "ljpeg", "j2k", "rle")


def make_series(folder: Path, num_slices: int) -> None:
    """A chest-like CT of 512² slices: smooth organs, noise of 12 HU, air around; as compressible as a real one."""
    from phantoms import Phantom, datasets, save
    from scipy.ndimage import gaussian_filter, zoom

    r = np.random.default_rng(0)
    field = zoom(gaussian_filter(r.normal(size=(128, 128, 16)), 6), (4, 4, num_slices / 16), order=1)[:, :, :num_slices]
    y, x = np.meshgrid(np.linspace(-1, 1, 512), np.linspace(-1, 1, 512), indexing="ij")
    body = (x / 0.9) ** 2 + (y / 0.7) ** 2 < 1
    base = datasets(Phantom(seed=1, columns=8, rows=8, slices=num_slices, spacing=(0.7, 0.7), step=1.25))
    for k, ds in enumerate(base):
        hu = np.where(body, 3e3 * field[:, :, k] + 20, -1000) + r.normal(0, 12, (512, 512))
        stored = np.clip(np.rint(hu + 1024), 0, 4095).astype(np.uint16)
        ds.Rows, ds.Columns, ds.PixelData = 512, 512, stored.tobytes()
        ds["PixelData"].VR = "OW"
    save(base, folder / "uncompressed")
    from faults import compress

    for syntax in SYNTAXES[1:]:
        packed = [copy.deepcopy(ds) for ds in base]
        for ds in packed:
            compress(ds, syntax)
        save(packed, folder / syntax)


MEDSSL = """
import os, sys
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as `medssl ingest` does
from pathlib import Path
from medssl.core import job as jobs, listing
from medssl.ingest.options import IngestOptions
from medssl.study.source_files import SourceFiles
from medssl.study.sources import refresh
from medssl.core.layout import Layout
from medssl.ingest import run
source, threads = sys.argv[1], int(sys.argv[2])
layout = Layout.of("results", "bench")
refresh(layout, "ct", SourceFiles.of("ct", source, None, IngestOptions()), listing.load_key(None))
private = layout.private("ct", "listing.jsonl")
options = IngestOptions().model_dump(mode="json")
spec = jobs.Spec("ingest", "ct", "bench", str(layout.root), 0, "bench", options, {"listing": private}, layout.ingest("ct"),
                 private={"path": source, "id_key": "", "folder": str(Path(private).parent)})
for step in (run.scan, lambda job: run.convert(job, 0), run.merge):
    with jobs.job(spec, threads=threads) as job:
        step(job)
"""

SIMPLEITK = """
import sys, SimpleITK as sitk
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(sys.argv[1]))
sitk.WriteImage(reader.Execute(), "a.nii")
"""

DICOM2NIFTI = """
import sys, dicom2nifti
dicom2nifti.dicom_series_to_nifti(sys.argv[1], "a.nii", reorient_nifti=False)
"""

PYDICOM = """
import sys, numpy, pydicom
from pathlib import Path
made = [pydicom.dcmread(p) for p in Path(sys.argv[1]).iterdir()]
made.sort(key=lambda d: d.ImagePositionPatient[2])
values = [d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in made]
numpy.save("a.npy", numpy.stack(values).astype("int16"))
"""


def commands(source: Path) -> dict[str, list[str]]:
    """What each tool is started with."""
    import dcm2niix

    python = sys.executable
    return {
        "medssl": [python, "-c", MEDSSL, str(source), "2"],
        "medssl 1 core": [python, "-c", MEDSSL, str(source), "1"],
        "dcm2niix -z n": [dcm2niix.bin, "-z", "n", "-o", ".", str(source)],
        "dcm2niix -z y": [dcm2niix.bin, "-z", "y", "-o", ".", str(source)],
        "SimpleITK": [python, "-c", SIMPLEITK, str(source)],
        "dicom2nifti": [python, "-c", DICOM2NIFTI, str(source)],
        "pydicom": [python, "-c", PYDICOM, str(source)],
    }


Run = tuple[float, float, float]
"""Seconds, processor seconds, and peak MB of the largest process."""

WATCHED = """
import os,resource,subprocess,sys
done=subprocess.run(sys.argv[2:],stdout=-3,stderr=-3).returncode
used=resource.getrusage(resource.RUSAGE_CHILDREN)
open(sys.argv[1],'w').write(f'{used.ru_maxrss} {used.ru_utime + used.ru_stime}')
sys.exit(done)
"""


def timed(command: list[str], *, cores: int, byte_code: Path, prepared: str = "") -> Run | None:
    """A command in an empty folder, or in one that the program `prepared` made ready; None if it fails.

    byte_code: where Python keeps what it compiled, for every tool: an installed program is compiled once.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        environment |= {"PYTHONPYCACHEPREFIX": str(byte_code)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if prepared:
            subprocess.run([sys.executable, "-c", prepared], cwd=folder, env=environment, check=True)
        peak = Path(folder) / ".peak"
        start_s = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, str(peak), *command],
            cwd=folder,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
        )
        spent_s = time.perf_counter() - start_s
        if done.returncode:
            return None
        peak_kb, processor_s = peak.read_text().split()
        return spent_s, float(processor_s), int(peak_kb) / 1024


def in_turn(commands: dict[str, list[str]], repeats: int, byte_code: Path) -> dict[str, list[Run]]:
    """The tools one after the other, `repeats` times: each is compared with what ran beside it. Those that fail are left out."""
    rounds = [
        {
            tool: timed(command, cores=1 if tool.endswith("1 core") else 2, byte_code=byte_code)
            for tool, command in commands.items()
        }
        for _ in range(repeats)
    ]
    runs = {tool: [one[tool] for one in rounds] for tool in commands}
    return {tool: [run for run in found if run is not None] for tool, found in runs.items() if None not in found}


def middle(runs: list[Run], index: int) -> float:
    """The median of one figure."""
    return statistics.median(run[index] for run in runs)


def ratio(mine: list[Run], other: list[Run], index: int, start: tuple[float, float] = (0.0, 0.0)) -> float:
    """How many times as fast medssl is as another tool: the median of the pairs, without what each needs to start."""
    pairs = [(a[index] - start[0], b[index] - start[1]) for a, b in zip(mine, other, strict=True)]
    return round(statistics.median(b / max(a, 1e-3) for a, b in pairs), 2)


def _chosen(source: Path, quick: bool) -> dict[str, list[str]]:
    """All tools on uncompressed slices; the readers that are compared on compressed ones, where the others take minutes."""
    chosen = ("medssl", "dcm2niix -z n", "dcm2niix -z y", "SimpleITK")
    if source.name not in SYNTAXES[1:]:
        chosen += () if quick else ("medssl 1 core", "dicom2nifti", "pydicom")
    return {tool: command for tool, command in commands(source).items() if tool in chosen}


SPEC = """
import sys
from pathlib import Path
from medssl.core import job as jobs, listing
from medssl.core.files import write_json, write_text
from medssl.core.layout import Layout
from medssl.ingest.options import IngestOptions
from medssl.study.source_files import SourceFiles
from medssl.study.sources import refresh
layout, source = Layout.of("results", "bench"), SOURCE
refresh(layout, "ct", SourceFiles.of("ct", source, None, IngestOptions()), listing.load_key(None))
private = layout.private("ct", "listing.jsonl")
spec = jobs.Spec("ingest", "ct", "bench", str(layout.root), 0, "bench", IngestOptions().model_dump(mode="json"),
                 {"listing": private}, layout.ingest("ct"))
place = {"path": source, "labels": None, "id_key": "", "folder": str(Path(private).parent)}
write_json(Path(private).parent / "place.json", place)
write_text("spec.json", spec.to_json())
"""


def command_starts(few: Path, repeats: int, byte_code: Path) -> dict[str, float]:
    """Seconds of whole commands on three slices."""
    medssl, prepared = [sys.executable, "-m", "medssl"], SPEC.replace("SOURCE", repr(str(few)))
    found = {}
    for name, words in {
        "medssl --help": ["--help"],
        "medssl ingest, scan": ["ingest", "spec.json", "--step", "scan", "--threads", "2"],
        "medssl check": ["check", str(few)],
    }.items():
        runs = [timed([*medssl, *words], cores=2, byte_code=byte_code, prepared=prepared) for _ in range(repeats + 1)]
        good = [run for run in runs[1:] if run is not None]
        found[name] = round(middle(good, 0), 2) if good else 0.0
    return found


def limits(source: Path, compressed: Path) -> dict[str, float]:
    """Seconds that parts of the work take by themselves: no reader of these files that hashes and syncs its result is below."""
    import hashlib

    import imagecodecs

    from medssl.ingest.dicom.elements import parse
    from medssl.ingest.dicom.tags import PIXELS_WANTED

    def spent(work: Callable[[], object]) -> float:
        start_s = time.perf_counter()
        work()
        return round(time.perf_counter() - start_s, 3)

    plane = np.zeros((512, 512), np.int16)
    paths, parts = sorted(source.iterdir()), [parse(path.read_bytes(), PIXELS_WANTED) for path in sorted(compressed.iterdir())]
    streams = [b"".join(part.data[at : at + size] for at, size in part.fragments) for part in parts]
    digest = hashlib.sha256()
    with tempfile.TemporaryFile(dir=source) as file:
        return {
            "read": spent(lambda: [path.read_bytes() for path in paths]),
            "write": spent(lambda: [file.write(plane) for _ in paths]),
            "sync to disk": spent(lambda: os.fsync(file.fileno())),
            "sha256": spent(lambda: [digest.update(plane) for _ in paths]),
            "decode JPEG-LS": spent(lambda: [imagecodecs.jpegls_decode(stream) for stream in streams]),
        }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 slices, two syntaxes, four tools, one round")
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    num_slices, repeats = (60, 1) if options.quick else (options.slices, options.repeats)
    syntaxes = SYNTAXES[:2] if options.quick else SYNTAXES
    rates: dict[str, dict[str, float | None]] = {}
    further: dict[str, dict[str, float | None]] = {}
    processor: dict[str, dict[str, float | None]] = {}
    over: dict[str, dict[str, dict[str, float]]] = {"medssl_over": {}, "medssl_over_further": {}, "medssl_over_processor": {}}
    with tempfile.TemporaryDirectory() as folder:
        byte_code = Path(folder) / "byte_code"
        make_series(Path(folder), num_slices)
        few = Path(folder) / "few"
        few.mkdir()
        for path in sorted((Path(folder) / "uncompressed").iterdir())[:SMALL]:
            (few / path.name).write_bytes(path.read_bytes())
        in_turn(_chosen(few, options.quick), 1, byte_code)  # what is compiled once
        begun = in_turn(_chosen(few, options.quick), repeats, byte_code)
        starts = {tool: (middle(runs, 0), middle(runs, 1)) for tool, runs in begun.items()}
        peaks = {tool: {"start": round(max(run[2] for run in runs), 1)} for tool, runs in begun.items()}
        commands_s = command_starts(few, repeats, byte_code)
        for syntax in syntaxes:
            source = Path(folder) / syntax
            for path in source.iterdir():
                path.read_bytes()
            runs = in_turn(_chosen(source, options.quick), repeats, byte_code)
            mine = runs["medssl"]
            rates[syntax], further[syntax], processor[syntax] = {}, {}, {}
            for tool, found in runs.items():
                start = starts.get(tool, (0.0, 0.0))
                rates[syntax][tool] = round(num_slices / middle(found, 0), 1)
                for table, index in ((further, 0), (processor, 1)):
                    more_s = middle(found, index) - start[index]
                    table[syntax][tool] = round((num_slices - SMALL) / more_s, 1) if more_s > 0 else None
                for name, index, begins in (
                    ("medssl_over", 0, (0.0, 0.0)),
                    ("medssl_over_further", 0, (starts["medssl"][0], start[0])),
                    ("medssl_over_processor", 1, (starts["medssl"][1], start[1])),
                ):
                    over[name].setdefault(syntax, {})[tool] = ratio(mine, found, index, begins)
                if syntax == "uncompressed" and tool in peaks:
                    peaks[tool]["series"] = round(max(run[2] for run in found), 1)
                print(f"{syntax:14s}{tool:16s}{rates[syntax][tool] or '–':>10} slices/s", flush=True)
        least_s = limits(Path(folder) / "uncompressed", Path(folder) / "jpegls")
    tools = list(rates["uncompressed"])
    for title, table in (("whole process", rates), ("further slices", further), ("processor", processor)):
        print(f"{title + ', /s':20s}" + "".join(f"{tool:>16s}" for tool in tools))
        for syntax, row in table.items():
            print(f"{syntax:20s}" + "".join(f"{row.get(tool) or '–':>16}" for tool in tools))
    result: dict[str, Any] = {
        "slices": num_slices,
        "slices_per_s": rates,
        "further_slices_per_s": further,
        "further_slices_per_processor_s": processor,
        **over,
        "start_s": {tool: round(start[0], 2) for tool, start in starts.items()},
        "start_processor_s": {tool: round(start[1], 2) for tool, start in starts.items()},
        "commands_s": commands_s,
        "least_s": least_s,
        "peak_mb": peaks,
        "volume_mb": num_slices * 512 * 512 * 2 / 1e6,
        "versions": {"medssl": version("medssl"), **{p: version(p) for p in ("dcm2niix", "simpleitk", "dicom2nifti", "pydicom")}},
        "processor": platform.machine(),
        "cores": 2,
        "load": round(os.getloadavg()[2], 1),
        "date": datetime.now(UTC).date().isoformat(),
    }
    if not options.quick:
        write_json(ROOT / "benchmarks" / "results" / "ingest.json", result)
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
