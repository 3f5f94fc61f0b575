"""Right, refused or wrong on every fault class, judged by the truth: medssl, dcm2niix, SimpleITK and dicom2nifti.

The sources are the analytic phantom with one fault or one harmless quirk each (`tests/faults.py`). `right` is every volume there,
every voxel within half a unit and everything covered; `refused`: no volume, or an exit code that says so; `wrong` is the rest.
Sound data that is refused is counted too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "ingest")]

from faults import DICOM_FAULTS, FIELD_TABLE, NIFTI_FAULTS, Result, faults_files, faults_slices, judge  # noqa: E402
from ingesting import KEY, ingest  # noqa: E402

from medssl.core.files import write_json  # noqa: E402
from medssl.ingest.reading_pool import ReadingPool  # noqa: E402

POLICY = (
    *("burned_in", "derived_or_captured", "kernel_differs_in_one", "linked", "deflate_bomb", "nested_deep", "huge_matrix"),
    *faults_slices.POLICY,
    *faults_files.POLICY,
)
"""What medssl refuses as a matter of policy or safety: no volume of a peer is wrong for it, so they are not compared."""
TIMEOUT_S = 30
PEERS = ("dcm2niix", "SimpleITK", "dicom2nifti")


def nifti_results(folder: Path) -> list[Result]:
    """Every volume below a folder, a 4-D file as its time points."""
    import nibabel

    found = []
    for path in sorted(folder.rglob("*.nii*")):
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        values = values.reshape(*values.shape[:3], -1) if values.ndim > 2 else values[..., None, None]
        found += [Result(values[..., t], image.affine) for t in range(values.shape[3])]
    return found


def with_dcm2niix(source: Path, out: Path) -> list[Result]:
    import dcm2niix

    run = subprocess.run(
        [dcm2niix.bin, "-z", "n", "-f", "%s_%d_%r", "-o", str(out), str(source)], capture_output=True, timeout=TIMEOUT_S
    )
    return nifti_results(out) if run.returncode == 0 else []


def with_simpleitk(source: Path, out: Path) -> list[Result]:
    """As torchio reads a folder: the first series that GDCM finds."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return [Result(sitk.GetArrayFromImage(image).T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)]


def with_dicom2nifti(source: Path, out: Path) -> list[Result]:
    import dicom2nifti

    dicom2nifti.dicom_series_to_nifti(str(source), str(out / "a.nii"), reorient_nifti=False)
    return nifti_results(out)


def _peer(name: str, source: str, out: str) -> list[tuple[np.ndarray, np.ndarray]]:
    Path(out).mkdir(parents=True)
    work = {"dcm2niix": with_dcm2niix, "SimpleITK": with_simpleitk, "dicom2nifti": with_dicom2nifti}[name]
    try:
        return [(result.values, result.affine) for result in work(Path(source), Path(out))]
    except (Exception, SystemExit):
        return []


def peer_results(pool: list[Any], name: str, source: Path, out: Path) -> list[Result]:
    """What a peer makes of a folder; a hang or a crash counts as a refusal."""
    try:
        found = pool[0].apply_async(_peer, (name, str(source), str(out))).get(TIMEOUT_S)
    except multiprocessing.TimeoutError:
        pool[0].terminate()
        pool[0] = multiprocessing.get_context("spawn").Pool(1, _quiet)
        return []
    return [Result(*pair) for pair in found]


def _quiet() -> None:
    import logging
    import os

    logging.disable(logging.CRITICAL)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the seventeen classes of the field table at one seed")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    seeds = 1 if options.quick else options.seeds
    dicom = {name: DICOM_FAULTS[name] for name in FIELD_TABLE.values()} if options.quick else DICOM_FAULTS
    faults = dicom | ({} if options.quick else NIFTI_FAULTS)
    verdicts: dict[str, Counter[tuple[str, str]]] = {tool: Counter() for tool in ("medssl", *PEERS)}
    sound: set[str] = set()
    pool = [multiprocessing.get_context("spawn").Pool(1, _quiet)]
    with tempfile.TemporaryDirectory() as scratch, ReadingPool(KEY, 2) as readers:
        for seed in range(seeds):
            root = Path(scratch) / "in" / str(seed)
            expected = {name: fault(root / name, seed) for name, fault in faults.items()}
            found = ingest(root, Path(scratch) / "x" / str(seed), readers=readers)
            sound |= {name for name, truth in expected.items() if truth.must_be_right}
            for name, truth in expected.items():
                results = [Result(values, affine) for values, affine, _ in found[name].volumes]
                verdicts["medssl"][name, judge(truth, results)] += 1
                if name in NIFTI_FAULTS or name in POLICY:
                    continue
                for peer in PEERS:
                    out = Path(scratch) / "out" / peer / str(seed) / name
                    verdicts[peer][name, judge(truth, peer_results(pool, peer, root / name, out))] += 1
    pool[0].terminate()
    report(verdicts, list(faults), sound, seeds, keep=not options.quick)


def report(verdicts: dict[str, Counter[tuple[str, str]]], names: list[str], sound: set[str], seeds: int, *, keep: bool) -> None:
    """Print the table, a line per class (`+`: nothing is wrong with it), and the sums."""
    print(f"{'':34s}" + "".join(f"{tool:>18s}" for tool in verdicts) + "\n" + f"{'right / refused / wrong':34s}")
    numbers = {name: number for number, name in FIELD_TABLE.items()}
    for name in sorted(names, key=lambda n: (numbers.get(n, "99"), names.index(n))):
        cells = []
        for counts in verdicts.values():
            parts = [counts[name, word] for word in ("right", "refused", "wrong")]
            cells.append(f"{'–' if sum(parts) == 0 else ' / '.join(map(str, parts)):>18s}")
        print(f"{numbers.get(name, '+' if name in sound else ''):3s}{name:31s}" + "".join(cells))
    result: dict[str, Any] = {
        "seeds": seeds,
        "classes": len(names),
        "field_classes": len(FIELD_TABLE),
        "sound_classes": len(sound),
    }
    for tool, counts in verdicts.items():
        everything = {word: sum(counts[name, word] for name in names) for word in ("right", "refused", "wrong")}
        worst = Counter(_worst(counts, name) for name in FIELD_TABLE.values())
        compared_sound = [name for name in sound if any(counts[name, word] for word in ("right", "refused", "wrong"))]
        of_sound = {f"sound_{word}": sum(counts[name, word] for name in compared_sound) for word in ("right", "refused", "wrong")}
        result[tool] = {**everything, **of_sound, "field_17": {word: worst[word] for word in ("right", "refused", "wrong")}}
    result |= {"right": result["medssl"]["right"], "refused": result["medssl"]["refused"], "wrong": result["medssl"]["wrong"]}
    compared = [n for n in names if sum(verdicts["dcm2niix"][n, w] for w in ("right", "refused", "wrong"))]
    behind = [n for n in compared if verdicts["dcm2niix"][n, "right"] > verdicts["medssl"][n, "right"]]
    result["classes_where_dcm2niix_is_right_more_often"] = behind
    result["versions"] = {"medssl": version("medssl"), **{p: version(p.lower()) for p in PEERS}}
    result |= {"processor": platform.machine(), "date": datetime.now(UTC).date().isoformat()}
    if keep:
        write_json(ROOT / "benchmarks" / "results" / "faults.json", result)
    print("RESULT " + json.dumps(result))


def _worst(counts: Counter[tuple[str, str]], name: str) -> str:
    return next((word for word in ("wrong", "refused", "right") if counts[name, word]), "none")


if __name__ == "__main__":
    main()
