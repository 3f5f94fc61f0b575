"""Two scans in one series that differ in one thing alone, sound scans in which it differs too, people without identifiers.

Each class is as those of `faults.py`. `HARMLESS` names the classes that are sound series: they may not be refused or divided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from faults import Expected, enhanced_file
from faults_slices import CONTRAST, GENTLE, Fault, fewer, moved, numbered, scans, shuffled, two
from phantoms import Phantom, datasets, random_phantom, save
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items

from medssl.core.rng import rng

PET_CLASS = "1.2.840.10008.5.1.4.1.1.128"
FrameMark = Callable[[Dataset, int], None]
"""(functional groups of a frame, number of its scan)"""
MR: dict[str, Any] = {"modality": "MR", "constant": 600.0}
PT: dict[str, Any] = {"modality": "PT", "constant": 600.0}
FLAT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _clock(seconds: float) -> str:
    return f"10{int(seconds // 60):02d}{seconds % 60:09.6f}"


# ---- what the slices of a scan state


def _both(**values: tuple[Any, Any]) -> Callable[[FileDataset, int, int], None]:
    """Tags that have one value in the first scan, another in the second."""

    def change(ds: FileDataset, t: int, number: int) -> None:
        for name, pair in values.items():
            if pair[t] is not None:
                setattr(ds, name, pair[t])

    return change


def _each_second(name: str, *, step_s: float = 0.4, pause_s: float = 140.0) -> Callable[[FileDataset, int, int], None]:
    """A time of every slice, and a pause between two scans."""

    def change(ds: FileDataset, t: int, number: int) -> None:
        setattr(ds, name, _clock(900 + t * pause_s + step_s * number))

    return change


def _two_levels(ds: FileDataset, t: int, number: int) -> None:
    """The tube current varies within each of two scans, of which one has half the dose."""
    ds.XRayTubeCurrent = (200, 100)[t] + number % 4


def _repetition_of_a_heart(ds: FileDataset, t: int, number: int) -> None:
    ds.RepetitionTime = str((500.0, 2400.0)[t] + (number * 7) % 5)


def _as_pet(change: Callable[[FileDataset, int, int], None]) -> Callable[[FileDataset, int, int], None]:
    def both(ds: FileDataset, t: int, number: int) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = PET_CLASS
        ds.RescaleSlope, ds.RescaleIntercept, ds.Units = 1, 0, "BQML"
        ds.CorrectedImage = ["DECY", "ATTN", "SCAT"]
        change(ds, t, number)

    return both


def _placed(classes: dict[str, tuple[Callable[[FileDataset, int, int], None], dict[str, Any]]]) -> dict[str, Fault]:
    return {
        f"{name}_{where}": two(change, place, **options)
        for name, (change, options) in classes.items()
        for where, place in (("abutting", "next"), ("half_a_step_apart", "half"))
    }


_PAIRS: dict[str, tuple[Callable[[FileDataset, int, int], None], dict[str, Any]]] = {
    "times_mr": (_both(AcquisitionTime=("101500", "101730")), MR),
    "times_mr_close": (_both(AcquisitionTime=("101500", "101506")), MR),
    "times_of_slices_mr": (_each_second("AcquisitionTime"), MR),
    "content_times_mr": (_both(ContentTime=("101500", "101730")), MR),
    "content_times_of_slices_mr": (_each_second("ContentTime"), MR),
    "content_times_ct": (_both(ContentTime=("101500", "101730")), {}),
    "series_times": (_both(SeriesTime=("101500", "101730")), {}),
    "repetition_times": (_both(RepetitionTime=("500", "2400")), MR),
    "repetition_times_of_slices": (_repetition_of_a_heart, MR),
    "sequences": (_both(SequenceName=("*se2d1", "*tir2d1_11")), MR),
    "scan_options": (_both(ScanOptions=(["PFP"], ["PFP", "FS"])), MR),
    "echo_trains": (_both(EchoTrainLength=("1", "15")), MR),
    "series_numbers": (_both(SeriesNumber=(3, 4), SeriesDescription=("t1 tra", "t1 tra km")), MR),
    "series_descriptions": (_both(SeriesDescription=("t1 tra", "t1 tra km")), MR),
    "components": (_both(ComplexImageComponent=("MAGNITUDE", "PHASE")), MR),
    "agents_of_two_kinds": (_both(ContrastBolusAgent=("Agent 350", "Agent 370 oral")), {}),
    "tube_currents": (_both(XRayTubeCurrent=(200, 100)), {}),
    "tube_currents_of_two_levels": (_two_levels, {}),
    "filters": (_both(FilterType=("BODY FILTER", "HEAD FILTER")), {}),
    "corrections": (_as_pet(_both(CorrectedImage=(["DECY", "ATTN", "SCAT"], ["DECY"]))), PT),
    "reference_times": (_as_pet(_both(FrameReferenceTime=("60000", "180000"))), PT),
    "times_pt": (_as_pet(_both(AcquisitionTime=("101500", "101730"))), PT),
}


def three_scans_between_each_other(folder: Path, seed: int) -> Expected:
    """Three scans of an MR, a third of a step apart, that differ in their time, or in their repetition time."""
    one = random_phantom(seed, **MR, slope_per_mm=GENTLE)
    truths = [moved(one, one.step * t / 3, 600.0 + CONTRAST * t) for t in range(3)]

    def change(ds: FileDataset, t: int, number: int) -> None:
        if seed % 2:
            ds.AcquisitionTime = _clock(900 + 150 * t + 0.3 * number)
        else:
            ds.RepetitionTime = (500, 900, 2400)[t]

    save(shuffled(scans(truths, change), seed), folder)
    return Expected(truths)


def scans_in_packages(folder: Path, seed: int) -> Expected:
    """Two scans of an MR, of which each acquired the odd slices, then the even ones; abutting or between each other."""
    one = random_phantom(seed, **MR, slope_per_mm=GENTLE, slices=18)
    truths = [one, moved(one, one.step * (0.5 if seed % 2 else one.slices), 600.0 + CONTRAST)]

    def change(ds: FileDataset, t: int, number: int) -> None:
        ds.AcquisitionTime = _clock(900 + 300 * t + 120 * (number % 2) + 0.3 * number)

    save(shuffled(scans(truths, change), seed), folder)
    return Expected(truths)


def slices_one_by_one(folder: Path, seed: int) -> Expected:
    """Two scans between each other whose slices took 6 s each, without a pause: no gap of time is wider than others."""
    one = random_phantom(seed, **MR, slope_per_mm=GENTLE)
    truths = [one, moved(one, one.step / 2, 600.0 + CONTRAST)]

    def change(ds: FileDataset, t: int, number: int) -> None:
        ds.AcquisitionTime = _clock(900 + 6 * (t * one.slices + number))

    save(shuffled(scans(truths, change), seed), folder)
    return Expected(truths)


# ---- frames of an enhanced object


def _frame_moment(item: Dataset, t: int) -> None:
    item.FrameContentSequence[0].FrameAcquisitionDateTime = ("20240102101500.0", "20240102101730.0")[t]


def _frame_use(item: Dataset, t: int) -> None:
    use = Dataset()
    use.ContrastBolusAgentNumber, use.ContrastBolusAgentAdministered = 1, ("NO", "YES")[t]
    item.ContrastBolusUsageSequence = Items([use])


def _frame_direction(item: Dataset, t: int) -> None:
    direction, diffusion = Dataset(), Dataset()
    direction.DiffusionGradientOrientation = ([1.0, 0.0, 0.0], [0.0, 0.6, 0.8])[t]
    diffusion.DiffusionGradientDirectionSequence = Items([direction])
    diffusion.DiffusionDirectionality, diffusion.DiffusionBValue = "DIRECTIONAL", 1000.0
    item.MRDiffusionSequence = Items([diffusion])


def _frame_repetition(item: Dataset, t: int) -> None:
    timing = Dataset()
    timing.RepetitionTime = ("500", "2400")[t]
    item.MRTimingAndRelatedParametersSequence = Items([timing])


def _frame_index(item: Dataset, t: int) -> None:
    content = item.FrameContentSequence[0]
    content.DimensionIndexValues = [1, content.InStackPositionNumber, t + 1]


def _frame_offset(item: Dataset, t: int) -> None:
    position = Dataset()
    position.TemporalPositionTimeOffset = (0.0, 90.0)[t]
    item.TemporalPositionSequence = Items([position])


def _pointed(ds: FileDataset, last: int = 0x00209128) -> None:
    """What the indices count: stack, position in it, and a temporal position or an acquisition."""
    made = []
    for pointer in (0x00209056, 0x00209057, last):
        dimension = Dataset()
        dimension.DimensionIndexPointer, dimension.FunctionalGroupPointer = pointer, 0x00209111
        made.append(dimension)
    ds.DimensionIndexSequence = Items(made)


def _frames(mark: FrameMark, place: str, *, modality: str = "MR", pointed: bool = False) -> Fault:
    """Frames of two scans in one object: one after the other, half a step apart, or both at every place."""

    def fault(folder: Path, seed: int) -> Expected:
        constant = 600.0 if modality == "MR" else 0.0
        one = random_phantom(seed, constant=constant, slope_per_mm=GENTLE, modality=modality)
        other = moved(one, {"next": one.slices, "half": 0.5, "same": 0.0}[place] * one.step, one.constant + CONTRAST)
        ds, second = enhanced_file(one), enhanced_file(other)
        for t, made in enumerate((ds, second)):
            for n, item in enumerate(made.PerFrameFunctionalGroupsSequence):
                item.FrameContentSequence[0].InStackPositionNumber = n + 1
                mark(item, t)
        for item in second.PerFrameFunctionalGroupsSequence:
            ds.PerFrameFunctionalGroupsSequence.append(item)
        ds.NumberOfFrames = one.slices + other.slices
        ds.PixelData = ds.PixelData + second.PixelData
        if pointed:
            _pointed(ds)
        save([ds], folder)
        return Expected([one, other], must_be_right=place == "same")

    return fault


_FRAME_MARKS: dict[str, tuple[FrameMark, dict[str, Any]]] = {
    "moments": (_frame_moment, {}),
    "moments_ct": (_frame_moment, {"modality": "CT"}),
    "uses_of_an_agent": (_frame_use, {}),
    "directions": (_frame_direction, {}),
    "repetition_times": (_frame_repetition, {}),
    "indices": (_frame_index, {"pointed": True}),
    "indices_without_pointers": (_frame_index, {}),
    "offsets": (_frame_offset, {}),
}
_FRAME_PLACES = (("abutting", "next"), ("half_a_step_apart", "half"), ("at_one_place", "same"))


def enhanced_directions_and_times(folder: Path, seed: int) -> Expected:
    """Two directions at each of two moments at every place: neither alone distinguishes the frames."""
    base = random_phantom(seed, **MR, slope_per_mm=GENTLE)
    truths = [replace(base, constant=600.0 + CONTRAST * t) for t in range(4)]
    made = [enhanced_file(truth) for truth in truths]
    for t, ds in enumerate(made):
        for item in ds.PerFrameFunctionalGroupsSequence:
            _frame_direction(item, t % 2)
            _frame_moment(item, t // 2)
    for ds in made[1:]:
        for item in ds.PerFrameFunctionalGroupsSequence:
            made[0].PerFrameFunctionalGroupsSequence.append(item)
        made[0].PixelData = made[0].PixelData + ds.PixelData
    made[0].NumberOfFrames = 4 * base.slices
    save(made[:1], folder)
    return Expected(truths, must_be_right=True)


# ---- sound scans in which the same things differ


def _package_times(ds: FileDataset, seed: int, number: int) -> None:
    """The odd slices in one package, the even ones two minutes later; each package at one time, or slice by slice."""
    ds.AcquisitionTime = _clock(900 + 130 * (number % 2) + (0.2 * number if seed % 2 else 0))
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
    """The reconstruction writes its images in batches, some time apart."""
    ds.ContentTime, ds.SeriesTime = _clock(900 + 20 * (number // 5)), "101200"
    ds.AcquisitionTime = _clock(880 + 0.1 * number)


def _each_slice_in_time(ds: FileDataset, seed: int, number: int) -> None:
    """A slice every 12 s, the odd ones first."""
    order = number // 2 if number % 2 == 0 else 13 + number // 2
    ds.AcquisitionTime = ds.ContentTime = _clock(60 + 12 * order)


def _described_each(ds: FileDataset, seed: int, number: int) -> None:
    ds.SeriesDescription, ds.SeriesNumber = f"axial slice {number}", 100 + number


def _described_few(ds: FileDataset, seed: int, number: int) -> None:
    """Somebody marked two slices."""
    ds.SeriesDescription = "t1 tra" if number not in (5, 6) else "t1 tra finding"


def _beds(ds: FileDataset, seed: int, number: int) -> None:
    """A PET whose beds follow each other: each has its time, and may have its duration."""
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = PET_CLASS
    ds.RescaleSlope, ds.RescaleIntercept, ds.Units, ds.CorrectedImage = 1, 0, "BQML", ["DECY", "ATTN"]
    bed = number // 6
    ds.AcquisitionTime, ds.FrameReferenceTime = _clock(900 + 150 * bed), str(60000.0 + 150000 * bed)
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
    """Slabs that abut, each with a time of its own: one volume."""
    phantom = Slabs(**vars(random_phantom(seed, **MR, slices=18, slope_per_mm=GENTLE)))
    made = datasets(phantom)
    for number, ds in enumerate(made):
        ds.AcquisitionTime = ds.ContentTime = _clock(900 + 95 * (number // 6))
    save(shuffled(made, seed), folder)
    return Expected([phantom], must_be_right=True)


def enhanced_in_two_packages(folder: Path, seed: int) -> Expected:
    """An enhanced MR whose odd frames were acquired after the even ones, with indices and all that frames state."""
    phantom = random_phantom(seed, **MR)
    ds = enhanced_file(phantom)
    for number, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        content = item.FrameContentSequence[0]
        content.FrameAcquisitionDateTime = f"20240102{_clock(900 + 130 * (number % 2))}"
        content.DimensionIndexValues = [1, number + 1, 1 + number % 2]
        for mark in (_frame_use, _frame_direction, _frame_repetition):
            mark(item, 0)
    if seed % 2:
        _pointed(ds, 0x00209156)
    save([ds], folder)
    return Expected([phantom], must_be_right=True)


def enhanced_ct_in_time(folder: Path, seed: int) -> Expected:
    """Every frame of an enhanced CT has its time."""
    phantom = random_phantom(seed, constant=0.0)
    ds = enhanced_file(phantom)
    for number, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        item.FrameContentSequence[0].FrameAcquisitionDateTime = f"20240102{_clock(900 + 0.3 * number)}"
    save([ds], folder)
    return Expected([phantom], must_be_right=True)


# ---- people without identifiers


def _nameless(made: Sequence[FileDataset], uid: str) -> None:
    for ds in made:
        ds.PatientID = ds.PatientName = ""
        ds.SeriesInstanceUID = ds.StudyInstanceUID = ds.FrameOfReferenceUID = uid
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid


def _constant(seed: int) -> str:
    return ("0", "0.0.0.0", "1.2.3.4.5", "1.1.1")[seed % 4]


def constant_identifiers(folder: Path, seed: int) -> Expected:
    """All UIDs are one constant, and nobody is named: one scan."""
    phantom = random_phantom(seed)
    made = datasets(phantom)
    _nameless(made, _constant(seed))
    save(shuffled(made, seed), folder)
    return Expected([phantom], must_be_right=True)


def constant_identifiers_two_folders(folder: Path, seed: int) -> Expected:
    """Two people in two folders, all of whose UIDs are one constant; the one lies above the other, between, or in place."""
    one = random_phantom(seed, slope_per_mm=GENTLE)
    other = moved(one, (one.slices, 0.5, 0.0)[seed % 3] * one.step, one.constant + CONTRAST)
    for name, phantom in (("a", one), ("b", other)):
        made = datasets(phantom)
        _nameless(made, _constant(seed))
        save(shuffled(made, seed), folder / name)
    return Expected([one, other], must_be_right=True)


def _people(change: Callable[[FileDataset, int], None], *, constant: bool) -> Fault:
    """Two people in one folder and, by their identifiers, one series."""

    def fault(folder: Path, seed: int) -> Expected:
        one = random_phantom(seed, slope_per_mm=GENTLE)
        other = moved(one, (one.slices, 0.5)[seed % 2] * one.step, one.constant + CONTRAST)
        made = scans([one, other], lambda ds, t, number: None)
        for n, ds in enumerate(made):
            if constant:
                _nameless([ds], _constant(seed))
            ds.PatientID = ("", "ANONYMOUS")[seed // 2 % 2]
            change(ds, int(n >= one.slices))
        save(shuffled(made, seed), folder)
        return Expected([one, other])

    return fault


def _named(ds: FileDataset, t: int) -> None:
    ds.PatientName = ("One^Person", "Other^Person")[t]


def _born(ds: FileDataset, t: int) -> None:
    ds.PatientName, ds.PatientBirthDate = "Anonymous", ("19500101", "19610203")[t]


def _sexed(ds: FileDataset, t: int) -> None:
    ds.PatientName, ds.PatientSex = "", "MF"[t]


SCAN_FAULTS: dict[str, Fault] = {
    **_placed(_PAIRS),
    **{
        f"enhanced_{name}_{where}": _frames(mark, place, **options)
        for name, (mark, options) in _FRAME_MARKS.items()
        for where, place in _FRAME_PLACES
    },
    "options_of_a_few": fewer(_both(ScanOptions=("HELICAL MODE", "AXIAL MODE")), ("mixed_content",)),
    "agent_of_a_few": fewer(_both(ContrastBolusAgent=("Agent 350", "Agent 370 oral")), ("mixed_content",)),
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
        f"people_of_one_series_{name}{'_constant' if constant else ''}": _people(change, constant=constant)
        for name, change in (("named", _named), ("born", _born), ("sexed", _sexed))
        for constant in (False, True)
    },
    **{
        f.__name__: f
        for f in (
            enhanced_directions_and_times, packages_with_crosstalk, packages_of_noise, slabs_of_an_angiography,
            enhanced_in_two_packages, enhanced_ct_in_time, constant_identifiers, constant_identifiers_two_folders,
            three_scans_between_each_other, scans_in_packages, slices_one_by_one, two_currents_and_steps,
        )
    },
}  # fmt: skip
HARMLESS = (
    *(f"enhanced_{name}_at_one_place" for name in _FRAME_MARKS),
    "packages_in_two_times", "slices_each_in_its_time", "gated_repetition_times", "exposure_control", "two_currents_at_random",
    "currents_in_turn", "two_currents_in_blocks", "batches_of_a_reconstruction", "batches_of_a_reconstruction_mr",
    "description_of_every_slice", "description_of_a_few", "beds_of_a_pet", "enhanced_directions_and_times",
    "packages_with_crosstalk", "packages_of_noise", "slabs_of_an_angiography", "enhanced_in_two_packages",
    "enhanced_ct_in_time", "constant_identifiers", "constant_identifiers_two_folders",
)  # fmt: skip
"""Classes of sound series: a refusal is a fault of the reader."""
