"""Two scans in one series, or in one enhanced object, that differ in one thing alone.

Each class is as those of `faults.py`. `HARMLESS` names the classes that are sound series: they may not be refused or divided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from faults import Expected, enhanced_file
from faults_slices import CONTRAST, GENTLE, Fault, fewer, moved, scans, shuffled, two
from phantoms import random_phantom, save
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items

PET_CLASS = "1.2.840.10008.5.1.4.1.1.128"
FrameMark = Callable[[Dataset, int], None]
"""(functional groups of a frame, number of its scan)"""
MR: dict[str, Any] = {"modality": "MR", "constant": 600.0}
PT: dict[str, Any] = {"modality": "PT", "constant": 600.0}
FLAT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def clock(seconds: float) -> str:
    return f"10{int(seconds // 60):02d}{seconds % 60:09.6f}"


# ---- what the slices of a scan state


def both(**values: tuple[Any, Any]) -> Callable[[FileDataset, int, int], None]:
    """Tags that have one value in the first scan, another in the second."""

    def change(ds: FileDataset, t: int, number: int) -> None:
        for name, pair in values.items():
            if pair[t] is not None:
                setattr(ds, name, pair[t])

    return change


def _each_second(name: str, *, step_s: float = 0.4, pause_s: float = 140.0) -> Callable[[FileDataset, int, int], None]:
    """A time of every slice, and a pause between two scans."""

    def change(ds: FileDataset, t: int, number: int) -> None:
        setattr(ds, name, clock(900 + t * pause_s + step_s * number))

    return change


def _two_levels(ds: FileDataset, t: int, number: int) -> None:
    """The tube current varies within each of two scans, of which one has half the dose."""
    ds.XRayTubeCurrent = (200, 100)[t] + number % 4


def _repetition_of_a_heart(ds: FileDataset, t: int, number: int) -> None:
    ds.RepetitionTime = str((500.0, 2400.0)[t] + (number * 7) % 5)


def _as_pet(change: Callable[[FileDataset, int, int], None]) -> Callable[[FileDataset, int, int], None]:
    def marked(ds: FileDataset, t: int, number: int) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = PET_CLASS
        ds.RescaleSlope, ds.RescaleIntercept, ds.Units = 1, 0, "BQML"
        ds.CorrectedImage = ["DECY", "ATTN", "SCAT"]
        change(ds, t, number)

    return marked


def _placed(classes: dict[str, tuple[Callable[[FileDataset, int, int], None], dict[str, Any]]]) -> dict[str, Fault]:
    return {
        f"{name}_{where}": two(change, place, **options)
        for name, (change, options) in classes.items()
        for where, place in (("abutting", "next"), ("half_a_step_apart", "half"))
    }


_PAIRS: dict[str, tuple[Callable[[FileDataset, int, int], None], dict[str, Any]]] = {
    "times_mr": (both(AcquisitionTime=("101500", "101730")), MR),
    "times_mr_close": (both(AcquisitionTime=("101500", "101506")), MR),
    "times_of_slices_mr": (_each_second("AcquisitionTime"), MR),
    "content_times_mr": (both(ContentTime=("101500", "101730")), MR),
    "content_times_of_slices_mr": (_each_second("ContentTime"), MR),
    "content_times_ct": (both(ContentTime=("101500", "101730")), {}),
    "series_times": (both(SeriesTime=("101500", "101730")), {}),
    "repetition_times": (both(RepetitionTime=("500", "2400")), MR),
    "repetition_times_of_slices": (_repetition_of_a_heart, MR),
    "sequences": (both(SequenceName=("*se2d1", "*tir2d1_11")), MR),
    "scan_options": (both(ScanOptions=(["PFP"], ["PFP", "FS"])), MR),
    "echo_trains": (both(EchoTrainLength=("1", "15")), MR),
    "series_numbers": (both(SeriesNumber=(3, 4), SeriesDescription=("t1 tra", "t1 tra km")), MR),
    "series_descriptions": (both(SeriesDescription=("t1 tra", "t1 tra km")), MR),
    "components": (both(ComplexImageComponent=("MAGNITUDE", "PHASE")), MR),
    "agents_of_two_kinds": (both(ContrastBolusAgent=("Agent 350", "Agent 370 oral")), {}),
    "tube_currents": (both(XRayTubeCurrent=(200, 100)), {}),
    "tube_currents_of_two_levels": (_two_levels, {}),
    "filters": (both(FilterType=("BODY FILTER", "HEAD FILTER")), {}),
    "corrections": (_as_pet(both(CorrectedImage=(["DECY", "ATTN", "SCAT"], ["DECY"]))), PT),
    "reference_times": (_as_pet(both(FrameReferenceTime=("60000", "180000"))), PT),
    "times_pt": (_as_pet(both(AcquisitionTime=("101500", "101730"))), PT),
}


def three_scans_between_each_other(folder: Path, seed: int) -> Expected:
    """Three scans of an MR, a third of a step apart, that differ in their time, or in their repetition time."""
    one = random_phantom(seed, **MR, slope_per_mm=GENTLE)
    truths = [moved(one, one.step * t / 3, 600.0 + CONTRAST * t) for t in range(3)]

    def change(ds: FileDataset, t: int, number: int) -> None:
        if seed % 2:
            ds.AcquisitionTime = clock(900 + 150 * t + 0.3 * number)
        else:
            ds.RepetitionTime = (500, 900, 2400)[t]

    save(shuffled(scans(truths, change), seed), folder)
    return Expected(truths)


def scans_in_packages(folder: Path, seed: int) -> Expected:
    """Two scans of an MR, of which each acquired the odd slices, then the even ones; abutting or between each other."""
    one = random_phantom(seed, **MR, slope_per_mm=GENTLE, slices=18)
    truths = [one, moved(one, one.step * (0.5 if seed % 2 else one.slices), 600.0 + CONTRAST)]

    def change(ds: FileDataset, t: int, number: int) -> None:
        ds.AcquisitionTime = clock(900 + 300 * t + 120 * (number % 2) + 0.3 * number)

    save(shuffled(scans(truths, change), seed), folder)
    return Expected(truths)


def slices_one_by_one(folder: Path, seed: int) -> Expected:
    """Two scans between each other whose slices took 6 s each, without a pause: no gap of time is wider than others."""
    one = random_phantom(seed, **MR, slope_per_mm=GENTLE)
    truths = [one, moved(one, one.step / 2, 600.0 + CONTRAST)]

    def change(ds: FileDataset, t: int, number: int) -> None:
        ds.AcquisitionTime = clock(900 + 6 * (t * one.slices + number))

    save(shuffled(scans(truths, change), seed), folder)
    return Expected(truths)


# ---- frames of an enhanced object


def _frame_moment(item: Dataset, t: int) -> None:
    item.FrameContentSequence[0].FrameAcquisitionDateTime = ("20240102101500.0", "20240102101730.0")[t]


def frame_use(item: Dataset, t: int) -> None:
    use = Dataset()
    use.ContrastBolusAgentNumber, use.ContrastBolusAgentAdministered = 1, ("NO", "YES")[t]
    item.ContrastBolusUsageSequence = Items([use])


def frame_direction(item: Dataset, t: int) -> None:
    direction, diffusion = Dataset(), Dataset()
    direction.DiffusionGradientOrientation = ([1.0, 0.0, 0.0], [0.0, 0.6, 0.8])[t]
    diffusion.DiffusionGradientDirectionSequence = Items([direction])
    diffusion.DiffusionDirectionality, diffusion.DiffusionBValue = "DIRECTIONAL", 1000.0
    item.MRDiffusionSequence = Items([diffusion])


def frame_repetition(item: Dataset, t: int) -> None:
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


def pointed(ds: FileDataset, last: int = 0x00209128) -> None:
    """What the indices count: stack, position in it, and a temporal position or an acquisition."""
    made = []
    for pointer in (0x00209056, 0x00209057, last):
        dimension = Dataset()
        dimension.DimensionIndexPointer, dimension.FunctionalGroupPointer = pointer, 0x00209111
        made.append(dimension)
    ds.DimensionIndexSequence = Items(made)


def _frames(mark: FrameMark, place: str, *, modality: str = "MR", says_what: bool = False) -> Fault:
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
        if says_what:
            pointed(ds)
        save([ds], folder)
        return Expected([one, other], must_be_right=place == "same")

    return fault


_FRAME_MARKS: dict[str, tuple[FrameMark, dict[str, Any]]] = {
    "moments": (_frame_moment, {}),
    "moments_ct": (_frame_moment, {"modality": "CT"}),
    "uses_of_an_agent": (frame_use, {}),
    "directions": (frame_direction, {}),
    "repetition_times": (frame_repetition, {}),
    "indices": (_frame_index, {"says_what": True}),
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
            frame_direction(item, t % 2)
            _frame_moment(item, t // 2)
    for ds in made[1:]:
        for item in ds.PerFrameFunctionalGroupsSequence:
            made[0].PerFrameFunctionalGroupsSequence.append(item)
        made[0].PixelData = made[0].PixelData + ds.PixelData
    made[0].NumberOfFrames = 4 * base.slices
    save(made[:1], folder)
    return Expected(truths, must_be_right=True)


SCAN_FAULTS: dict[str, Fault] = {
    **_placed(_PAIRS),
    **{
        f"enhanced_{name}_{where}": _frames(mark, place, **options)
        for name, (mark, options) in _FRAME_MARKS.items()
        for where, place in _FRAME_PLACES
    },
    "options_of_a_few": fewer(both(ScanOptions=("HELICAL MODE", "AXIAL MODE")), ("mixed_content",)),
    "agent_of_a_few": fewer(both(ContrastBolusAgent=("Agent 350", "Agent 370 oral")), ("mixed_content",)),
    **{
        f.__name__: f
        for f in (
            three_scans_between_each_other,
            scans_in_packages,
            slices_one_by_one,
            enhanced_directions_and_times,
        )
    },
}
HARMLESS = (*(f"enhanced_{name}_at_one_place" for name in _FRAME_MARKS), "enhanced_directions_and_times")
"""Classes of sound objects: a refusal is a fault of the reader."""
