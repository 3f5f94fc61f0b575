"""Series whose images are numbered twice, and slices or places with a series each.

Each class is like those of `faults.py`. `HARMLESS` names the classes that are sound series: they may not be refused or divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from faults import Expected
from faults_scans import MR, both, clock
from faults_slices import CONTRAST, GENTLE, Change, Fault, moved, scans, shuffled, two
from phantoms import random_phantom, save
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid


def _from_one(change: Change) -> Change:
    """The images of each scan are numbered from 1."""

    def changed(ds: FileDataset, t: int, number: int) -> None:
        ds.InstanceNumber = number + 1
        change(ds, t, number)

    return changed


def _nothing(ds: FileDataset, t: int, number: int) -> None:
    """Only the numbers differ."""


def _goes_on(change: Change) -> Fault:
    """Two scans numbered each from 1; the second begins where the first ends, and the values continue."""

    def fault(folder: Path, seed: int) -> Expected:
        one = random_phantom(seed, constant=100.0, slope_per_mm=GENTLE)
        truths = [one, moved(one, one.step * one.slices, one.constant)]
        save(shuffled(scans(truths, _from_one(change)), seed), folder)
        return Expected(truths)

    return fault


def numbering_restarts_in_one_scan(folder: Path, seed: int) -> Expected:
    """A program numbered the two halves of a scan for themselves."""
    phantom = random_phantom(seed)
    half = phantom.slices // 2
    save(shuffled(scans([phantom], lambda ds, t, n: setattr(ds, "InstanceNumber", 1 + n % half)), seed), folder)
    return Expected([phantom], must_be_right=True)


def packages_numbered_for_themselves(folder: Path, seed: int) -> Expected:
    """An MR that acquired every other slice, then those between, and numbered both from 1."""
    phantom = random_phantom(seed, **MR)

    def change(ds: FileDataset, t: int, number: int) -> None:
        ds.InstanceNumber, ds.AcquisitionTime = 1 + number // 2, clock(900 + 140 * (number % 2))

    save(shuffled(scans([phantom], change), seed), folder)
    return Expected([phantom], must_be_right=True)


# ---- series of one place


def _in_series(places: Sequence[Sequence[FileDataset]], seed: int, folder: Path) -> None:
    """Each place has its own series: with every other seed also its own folder."""
    for number, place in enumerate(places):
        for ds in place:
            ds.SeriesInstanceUID = generate_uid(entropy_srcs=["series of a place", str(seed), str(number), ds.StudyInstanceUID])
        save(shuffled(list(place), seed), folder / (f"SE{number:03d}" if seed % 2 else f"all/{number}"))


def each_slice_a_series_and_a_folder(folder: Path, seed: int) -> Expected:
    """Every slice of a scan has its own series and folder."""
    phantom = random_phantom(seed)
    _in_series([[ds] for ds in scans([phantom], _nothing)], 2 * seed + 1, folder)
    return Expected([phantom], must_be_right=True)


def two_scans_in_series_of_each_slice(folder: Path, seed: int) -> Expected:
    """Every slice has its own series; the number of the series distinguishes two scans of one range."""
    one = random_phantom(seed)
    truths = [one, replace(one, constant=one.constant + CONTRAST)]
    _in_series([[ds] for ds in scans(truths, lambda ds, t, n: setattr(ds, "SeriesNumber", 2 + t))], seed, folder)
    return Expected(truths, must_be_right=True)


def heart_in_series_of_each_place(folder: Path, seed: int) -> Expected:
    """A cine whose places are series of their own, each with the same phases, numbered in time."""
    base = random_phantom(seed, **MR)
    truths = [replace(base, constant=600.0 + CONTRAST * t) for t in range(4)]

    def change(ds: FileDataset, t: int, number: int) -> None:
        ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionTime = 10 + number, t + 1, clock(900 + 15 * number)
        ds.TriggerTime = t * 200 + number

    made = scans(truths, change)
    _in_series([made[k :: base.slices] for k in range(base.slices)], seed, folder)
    return Expected(truths, must_be_right=True)


def heart_against_its_clock(folder: Path, seed: int) -> Expected:
    """As before, but at one place the numbers of the images fall with time: which image is of which phase is not certain."""
    base = random_phantom(seed, **MR)
    truths = [replace(base, constant=600.0 + CONTRAST * t) for t in range(4)]

    def change(ds: FileDataset, t: int, number: int) -> None:
        ds.SeriesNumber, ds.InstanceNumber = 10 + number, 4 - t if number == 3 else t + 1
        ds.TriggerTime = t * 200 + number

    made = scans(truths, change)
    _in_series([made[k :: base.slices] for k in range(base.slices)], seed, folder)
    return Expected(truths, codes=("conflict",))


NUMBERING_FAULTS: dict[str, Fault] = {
    "numbering_restarts_in_another_acquisition": _goes_on(both(AcquisitionNumber=(1, 2), AcquisitionTime=("101500", "102000"))),
    "numbering_restarts_at_another_time": _goes_on(both(ContentTime=("101500", "102000"))),
    "numbering_restarts_with_another_current": _goes_on(both(XRayTubeCurrent=(100, 300))),
    "numbering_restarts_with_another_thickness": _goes_on(both(SliceThickness=(3, 5))),
    "numbering_restarts_abutting": two(_from_one(_nothing), "next"),
    "numbering_restarts_half_a_step_apart": two(_from_one(_nothing), "half"),
    "thicknesses_abutting": two(both(SliceThickness=(3, 5)), "next"),
    "thicknesses_half_a_step_apart": two(both(SliceThickness=(3, 5)), "half"),
    **{
        f.__name__: f
        for f in (
            numbering_restarts_in_one_scan,
            packages_numbered_for_themselves,
            each_slice_a_series_and_a_folder,
            two_scans_in_series_of_each_slice,
            heart_in_series_of_each_place,
            heart_against_its_clock,
        )
    },
}
HARMLESS = (
    "numbering_restarts_in_one_scan", "packages_numbered_for_themselves", "each_slice_a_series_and_a_folder",
    "two_scans_in_series_of_each_slice", "heart_in_series_of_each_place",
)  # fmt: skip
"""Classes of sound series: a refusal is a fault of the reader."""
