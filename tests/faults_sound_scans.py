"""Sound scans in which things differ that elsewhere are the only trace of two scans.

Each class is as those of `faults.py`. All are sound but `two_currents_and_steps`: they may be neither refused nor divided.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from faults import Expected, enhanced_file
from faults_scans import FLAT, MR, PET_CLASS, PT, clock, frame_direction, frame_repetition, frame_use, pointed
from faults_slices import GENTLE, Fault, numbered, shuffled
from phantoms import Phantom, datasets, random_phantom, save
from pydicom.dataset import FileDataset

from medssl.core.rng import rng


def _package_times(ds: FileDataset, seed: int, number: int) -> None:
    """The odd slices in one package, the even ones two minutes later; each package at one time, or slice by slice."""
    ds.AcquisitionTime = clock(900 + 130 * (number % 2) + (0.2 * number if seed % 2 else 0))
    ds.ContentTime = ds.AcquisitionTime


def _heart_rate(ds: FileDataset, seed: int, number: int) -> None:
    ds.RepetitionTime = str(round(float(rng(seed, "beat", str(number)).choice([857.0, 862.0, 871.0, 910.0])), 1))


def _exposure_control(ds: FileDataset, seed: int, number: int) -> None:
    ds.XRayTubeCurrent = 180 + round(60 * np.sin(number / 3)) + int(rng(seed, "mA", str(number)).integers(0, 3))
    ds.ExposureTime = 500


def _two_currents_at_random(ds: FileDataset, seed: int, number: int) -> None:
    ds.XRayTubeCurrent = (200, 201)[int(rng(seed, "mA", str(number)).integers(0, 2))]


def _two_currents_in_blocks(ds: FileDataset, seed: int, number: int) -> None:
    """A head scanned with more current below."""
    ds.XRayTubeCurrent, ds.ScanOptions = (300 if number < 7 else 220), "AXIAL MODE"


def _currents_in_turn(ds: FileDataset, seed: int, number: int) -> None:
    """Rows of a detector whose currents differ a little, or gated slices whose repetition times do."""
    ds.XRayTubeCurrent, ds.ExposureTime = 200 + number % (2 + seed % 3), 500


def two_currents_and_steps(folder: Path, seed: int) -> Expected:
    """A head scanned with thinner slices and more current below, as one series: one scan, whose steps are not even."""
    steps = [4.0] * 8 + [1.5] + [6.0] * 8
    phantom = random_phantom(seed, slices=18, depths=tuple(np.cumsum([0.0, *steps])), slope_per_mm=GENTLE)
    made = datasets(phantom)
    for number, ds in enumerate(made):
        ds.XRayTubeCurrent, ds.SliceThickness = (180, 160)[number > 8], (4.0, 6.0)[number > 8]
    save(shuffled(made, seed), folder)
    return Expected([phantom], contradictory=True, codes=("uneven",))


def _batches(ds: FileDataset, seed: int, number: int) -> None:
    """The reconstruction writes its images in batches, with pauses between them."""
    ds.ContentTime, ds.SeriesTime = clock(900 + 20 * (number // 5)), "101200"
    ds.AcquisitionTime = clock(880 + 0.1 * number)


def _each_slice_in_time(ds: FileDataset, seed: int, number: int) -> None:
    """A slice every 12 s, the odd ones first."""
    order = number // 2 if number % 2 == 0 else 13 + number // 2
    ds.AcquisitionTime = ds.ContentTime = clock(60 + 12 * order)


def _described_each(ds: FileDataset, seed: int, number: int) -> None:
    ds.SeriesDescription, ds.SeriesNumber = f"axial slice {number}", 100 + number


def _described_few(ds: FileDataset, seed: int, number: int) -> None:
    """A user marked two slices."""
    ds.SeriesDescription = "t1 tra" if number not in (5, 6) else "t1 tra finding"


def _beds(ds: FileDataset, seed: int, number: int) -> None:
    """A PET whose beds follow each other: each has its time, and may have its duration."""
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = PET_CLASS
    ds.RescaleSlope, ds.RescaleIntercept, ds.Units, ds.CorrectedImage = 1, 0, "BQML", ["DECY", "ATTN"]
    bed = number // 6
    ds.AcquisitionTime, ds.FrameReferenceTime = clock(900 + 150 * bed), str(60000.0 + 150000 * bed)
    ds.ActualFrameDuration = "120000" if bed < 2 else "90000"


@dataclass(frozen=True)
class Banded(Phantom):
    """A phantom whose every other slice is darker, as crosstalk or a moved patient makes them."""

    def value(self, points_lps: np.ndarray) -> np.ndarray:
        depths = (points_lps - np.array(self.origin)) @ self.normal
        return super().value(points_lps) - 60.0 * (np.rint(depths / self.step) % 2)


def packages_with_crosstalk(folder: Path, seed: int) -> Expected:
    """An MR in two packages of which one is darker, numbered along the stack: one scan, with a word of warning."""
    phantom = Banded(**vars(random_phantom(seed, **MR, slope_per_mm=GENTLE)))
    made = datasets(phantom)
    for number, ds in enumerate(made):
        _package_times(ds, seed, number)
        ds.InstanceNumber = number + 1 if seed % 4 < 2 else len(made) - number
    save(shuffled(made, seed), folder)
    return Expected([phantom], must_be_right=True)


@dataclass(frozen=True)
class Noisy(Phantom):
    """Slices of noise: neighbours are as different as slices further apart."""

    def value(self, points_lps: np.ndarray) -> np.ndarray:
        grid = np.rint(points_lps * 1e4).astype(np.int64)
        mixed = (grid[..., 0] * 73856093) ^ (grid[..., 1] * 19349663) ^ (grid[..., 2] * 83492791)
        return self.constant + (mixed ^ (mixed >> 13)) % 97


def packages_of_noise(folder: Path, seed: int) -> Expected:
    """An MR in two packages, numbered as they were acquired, without anything in its slices: one scan."""
    phantom = Noisy(**vars(random_phantom(seed, **MR, orientation=FLAT)))
    made = datasets(phantom)
    half = (len(made) + 1) // 2
    for number, ds in enumerate(made):
        _package_times(ds, seed, number)
        ds.InstanceNumber = 1 + (number // 2 if number % 2 == 0 else half + number // 2)
    save(shuffled(made, seed), folder)
    return Expected([phantom], must_be_right=True)


@dataclass(frozen=True)
class Slabs(Phantom):
    """A phantom whose signal falls at the ends of slabs of six slices, as in an angiography without contrast."""

    def value(self, points_lps: np.ndarray) -> np.ndarray:
        depths = (points_lps - np.array(self.origin)) @ self.normal
        within = (np.rint(depths / self.step) % 6) / 5 - 0.5
        return super().value(points_lps) - 160.0 * within**2


def slabs_of_an_angiography(folder: Path, seed: int) -> Expected:
    """Slabs that abut, each with its own time: one volume."""
    phantom = Slabs(**vars(random_phantom(seed, **MR, slices=18, slope_per_mm=GENTLE)))
    made = datasets(phantom)
    for number, ds in enumerate(made):
        ds.AcquisitionTime = ds.ContentTime = clock(900 + 95 * (number // 6))
    save(shuffled(made, seed), folder)
    return Expected([phantom], must_be_right=True)


def enhanced_in_two_packages(folder: Path, seed: int) -> Expected:
    """An enhanced MR whose odd frames were acquired after the even ones, with indices and all that frames state."""
    phantom = random_phantom(seed, **MR)
    ds = enhanced_file(phantom)
    for number, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        content = item.FrameContentSequence[0]
        content.FrameAcquisitionDateTime = f"20240102{clock(900 + 130 * (number % 2))}"
        content.DimensionIndexValues = [1, number + 1, 1 + number % 2]
        for mark in (frame_use, frame_direction, frame_repetition):
            mark(item, 0)
    if seed % 2:
        pointed(ds, 0x00209156)
    save([ds], folder)
    return Expected([phantom], must_be_right=True)


def enhanced_ct_in_time(folder: Path, seed: int) -> Expected:
    """Every frame of an enhanced CT has its time."""
    phantom = random_phantom(seed, constant=0.0)
    ds = enhanced_file(phantom)
    for number, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        item.FrameContentSequence[0].FrameAcquisitionDateTime = f"20240102{clock(900 + 0.3 * number)}"
    save([ds], folder)
    return Expected([phantom], must_be_right=True)


SOUND_SCAN_FAULTS: dict[str, Fault] = {
    "description_of_a_few": numbered(_described_few),
    "packages_in_two_times": numbered(_package_times, **MR),
    "slices_each_in_its_time": numbered(_each_slice_in_time, **MR),
    "gated_repetition_times": numbered(_heart_rate, **MR),
    "exposure_control": numbered(_exposure_control),
    "two_currents_at_random": numbered(_two_currents_at_random),
    "currents_in_turn": numbered(_currents_in_turn),
    "two_currents_in_blocks": numbered(_two_currents_in_blocks),
    "batches_of_a_reconstruction": numbered(_batches),
    "batches_of_a_reconstruction_mr": numbered(_batches, **MR),
    "description_of_every_slice": numbered(_described_each),
    "beds_of_a_pet": numbered(_beds, **PT),
    **{
        f.__name__: f
        for f in (
            two_currents_and_steps,
            packages_with_crosstalk,
            packages_of_noise,
            slabs_of_an_angiography,
            enhanced_in_two_packages,
            enhanced_ct_in_time,
        )
    },
}
HARMLESS = tuple(name for name in SOUND_SCAN_FAULTS if name != "two_currents_and_steps")
