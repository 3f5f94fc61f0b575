"""Slices a second from a folder of DICOM to the readable cache: medssl beside dcm2niix, SimpleITK and dicom2nifti.

The same series of 512² CT slices, uncompressed and in each compressed syntax, in one run; whole processes, files in the
page cache, the best of a few repeats. Three figures each: the whole process; the slices beyond a series of three, which
leaves out the start of the process (Python and its libraries for all but dcm2niix); and slices per second of processor time,
which a busy machine does not change. medssl does all that it always does: header scan, checks, hashes, ledger, receipt.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
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
import sys
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


def timed(command: list[str], *, cores: int) -> tuple[float, float, float] | None:
    """(seconds, processor seconds, peak MB of the largest process) of a command in an empty folder; None if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        start_s = time.perf_counter()
        script = (
            "import os,resource,subprocess,sys;c=subprocess.run(sys.argv[2:],stdout=-3,stderr=-3).returncode;"
            "u=resource.getrusage(resource.RUSAGE_CHILDREN);"
            "open(sys.argv[1],'w').write(f'{u.ru_maxrss} {u.ru_utime + u.ru_stime}');sys.exit(c)"
        )
        peak = Path(folder) / ".peak"
        done = subprocess.run(
            [sys.executable, "-c", script, str(peak), *command],
            cwd=folder,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
        )
        spent_s = time.perf_counter() - start_s
        if done.returncode:
            return None
        peak_kb, processor_s = peak.read_text().split()
        return spent_s, float(processor_s), int(peak_kb) / 1024


def _best(command: list[str], tool: str, repeats: int) -> tuple[float, float, float] | None:
    """The least seconds, processor seconds and the largest peak of a few runs; None if one fails."""
    runs = [timed(command, cores=1 if tool.endswith("1 core") else 2) for _ in range(repeats)]
    good = [run for run in runs if run is not None]
    if len(good) < len(runs):
        return None
    return min(run[0] for run in good), min(run[1] for run in good), max(run[2] for run in good)


def _chosen(source: Path, quick: bool) -> dict[str, list[str]]:
    """All tools on uncompressed slices; the readers that are compared on compressed ones, where the others take minutes."""
    chosen = ("medssl", "dcm2niix -z n", "dcm2niix -z y", "SimpleITK")
    if source.name not in SYNTAXES[1:]:
        chosen += () if quick else ("medssl 1 core", "dicom2nifti", "pydicom")
    return {tool: command for tool, command in commands(source).items() if tool in chosen}


def _ratios(table: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float]]:
    """How many times as fast medssl is as each tool."""
    found: dict[str, dict[str, float]] = {}
    for syntax, row in table.items():
        mine = row["medssl"]
        found[syntax] = {tool: round(mine / rate, 2) for tool, rate in row.items() if rate and mine}
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 slices, two syntaxes, four tools, one repeat")
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    num_slices, repeats = (60, 1) if options.quick else (options.slices, options.repeats)
    syntaxes = SYNTAXES[:2] if options.quick else SYNTAXES
    rates: dict[str, dict[str, float | None]] = {}
    further: dict[str, dict[str, float | None]] = {}
    processor: dict[str, dict[str, float | None]] = {}
    starts: dict[str, tuple[float, float]] = {}
    peaks: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_series(Path(folder), num_slices)
        few = Path(folder) / "few"
        few.mkdir()
        for path in sorted((Path(folder) / "uncompressed").iterdir())[:SMALL]:
            (few / path.name).write_bytes(path.read_bytes())
        for tool, command in _chosen(few, options.quick).items():
            best = _best(command, tool, repeats)
            starts[tool] = best[:2] if best else (0.0, 0.0)
            peaks[tool] = {"start": round(best[2], 1) if best else 0.0}
        for syntax in syntaxes:
            source = Path(folder) / syntax
            for path in source.iterdir():
                path.read_bytes()
            rates[syntax], further[syntax], processor[syntax] = {}, {}, {}
            for tool, command in _chosen(source, options.quick).items():
                best = _best(command, tool, repeats)
                rates[syntax][tool] = round(num_slices / best[0], 1) if best else None
                for table, index in ((further, 0), (processor, 1)):
                    more_s = best[index] - starts[tool][index] if best else 0.0
                    table[syntax][tool] = round((num_slices - SMALL) / more_s, 1) if more_s > 0 else None
                if best and syntax == "uncompressed":
                    peaks[tool]["series"] = round(best[2], 1)
                print(f"{syntax:14s}{tool:16s}{rates[syntax][tool] or '–':>10} slices/s", flush=True)
    tools = list(rates["uncompressed"])
    for title, table in (("whole process", rates), ("further slices", further), ("processor", processor)):
        print(f"{title + ', /s':20s}" + "".join(f"{tool:>16s}" for tool in tools))
        for syntax, row in table.items():
            print(f"{syntax:20s}" + "".join(f"{row.get(tool) or '–':>16}" for tool in tools))
    volume_mb = num_slices * 512 * 512 * 2 / 1e6
    result: dict[str, Any] = {
        "slices": num_slices,
        "slices_per_s": rates,
        "further_slices_per_s": further,
        "further_slices_per_processor_s": processor,
        "medssl_over": _ratios(rates),
        "medssl_over_further": _ratios(further),
        "medssl_over_processor": _ratios(processor),
        "start_s": {tool: round(start[0], 2) for tool, start in starts.items()},
        "peak_mb": peaks,
        "volume_mb": volume_mb,
        "versions": {"medssl": version("medssl"), **{p: version(p) for p in ("dcm2niix", "simpleitk", "dicom2nifti", "pydicom")}},
        "processor": platform.machine(),
        "cores": 2,
        "date": datetime.now(UTC).date().isoformat(),
    }
    if not options.quick:
        write_json(ROOT / "benchmarks" / "results" / "ingest.json", result)
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
