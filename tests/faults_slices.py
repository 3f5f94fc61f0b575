"""Faults and harmless quirks of what the slices of one series state: patients, scans, contrasts, numbers, rescale, geometry.

Each class is as those of `faults.py`. `HARMLESS` names the classes that are sound series: they may not be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
from faults import Expected, enhanced_file
from phantoms import Phantom, datasets, random_phantom, save, set_stored, set_values
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid

from medssl.core.rng import rng

Fault = Callable[[Path, int], Expected]
Change = Callable[[FileDataset, int, int], None]
"""(data set, number of its scan, number of its slice)"""
CONTRAST = 80.0
GENTLE = (1.5, 1.0, 1.2)
"""HU per mm: the values of two stacks in a row stay within those of a body."""


# ---- two scans in one series: abutting, half a step apart, on another grid


def moved(phantom: Phantom, along: float, constant: float) -> Phantom:
    """The phantom further along its normal, with another contrast."""
    origin = np.round(np.array(phantom.origin) + along * phantom.normal, 6)
    return replace(phantom, origin=tuple(float(v) for v in origin), constant=constant)


def scans(truths: Sequence[Phantom], change: Change) -> list[FileDataset]:
    """The slices of several scans under one series identifier."""
    made = []
    for t, truth in enumerate(truths):
        for number, ds in enumerate(datasets(truth)):
            uid = generate_uid(entropy_srcs=["scan", str(truth.seed), str(t), str(number)])
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
            ds.InstanceNumber = len(made) + 1
            change(ds, t, number)
            made.append(ds)
    return made


def two(change: Change, place: str, **options: object) -> Fault:
    """Two scans in one series; `change` marks the second one."""

    def fault(folder: Path, seed: int) -> Expected:
        one = random_phantom(
            seed, **{"constant": 100.0 if options.get("modality") != "MR" else 600.0, "slope_per_mm": GENTLE, **options}
        )  # type: ignore[arg-type]
        if place == "half":
            # steps that whole millimetres and 1 % cannot confuse
            other = moved(one, one.step / 2, one.constant + CONTRAST)
        elif place == "grid":
            other = moved(one, one.step * (one.slices + 0.4), one.constant + CONTRAST)
        else:
            other = moved(one, one.step * one.slices, one.constant + CONTRAST)
        save(shuffled(scans([one, other], change), seed), folder)
        return Expected([one, other])

    return fault


def shuffled(made: list[FileDataset], seed: int) -> list[FileDataset]:
    return [made[n] for n in rng(seed, "shuffle").permutation(len(made))]


def _patient(ds: FileDataset, t: int, number: int) -> None:
    if t:
        ds.PatientID = f"{ds.PatientID}-other"
        ds.StudyInstanceUID = generate_uid(entropy_srcs=["other study", ds.PatientID])


def _study(ds: FileDataset, t: int, number: int) -> None:
    if t:
        ds.StudyInstanceUID = generate_uid(entropy_srcs=["other study", ds.PatientID])


def _frame(ds: FileDataset, t: int, number: int) -> None:
    if t:
        ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["other frame", ds.PatientID])


def _acquisition(ds: FileDataset, t: int, number: int) -> None:
    ds.AcquisitionNumber = t + 1


def _voltage(ds: FileDataset, t: int, number: int) -> None:
    ds.KVP = (80, 140)[t]


def _energy(ds: FileDataset, t: int, number: int) -> None:
    characteristics = Dataset()
    characteristics.MonoenergeticEnergyEquivalent = (40.0, 70.0)[t]
    ds.MultienergyCTProcessingSequence = Items([characteristics])


def _kernel(ds: FileDataset, t: int, number: int) -> None:
    ds.ConvolutionKernel = ("vendor soft", "vendor hard")[t]


def _type(ds: FileDataset, t: int, number: int) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", ("LOW", "HIGH")[t]]


def _phase(ds: FileDataset, t: int, number: int) -> None:
    ds.NominalPercentageOfCardiacPhase = (40.0, 75.0)[t]


def _temporal(ds: FileDataset, t: int, number: int) -> None:
    ds.TemporalPositionIdentifier = t + 1


def _agent(ds: FileDataset, t: int, number: int) -> None:
    if t:
        ds.ContrastBolusAgent = "an agent"


def _unit(ds: FileDataset, t: int, number: int) -> None:
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, ("US", "MS")[t]


def _inversion(ds: FileDataset, t: int, number: int) -> None:
    ds.InversionTime = (200, 2400)[t]


def _clock(ds: FileDataset, t: int, number: int) -> None:
    ds.AcquisitionTime = ("101500.000000", "101730.000000")[t]


def _clock_of_each(ds: FileDataset, t: int, number: int) -> None:
    seconds = 15 * 60 + t * 140 + 0.4 * number
    ds.AcquisitionTime = f"10{int(seconds // 60):02d}{seconds % 60:09.6f}"


def fewer(change: Change, codes: tuple[str, ...], *, contrast: float = CONTRAST) -> Fault:
    """One or two slices at an end are of another scan."""

    def fault(folder: Path, seed: int) -> Expected:
        phantom = random_phantom(seed)
        made = datasets(phantom)
        for n in range(len(made) - 1 - seed % 2, len(made)):
            set_values(made[n], phantom.plane(phantom.positions()[n]) + contrast)
            change(made[n], 1, n)
        for n in range(len(made) - 1 - seed % 2):
            change(made[n], 0, n)
        save(shuffled(made, seed), folder)
        return Expected([phantom], contradictory=True, codes=codes)

    return fault


def oblique_stacks(folder: Path, seed: int) -> Expected:
    """Two stacks whose planes are 0.15 degrees apart."""
    one = random_phantom(seed, orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), rows=300, columns=24, spacing=(0.4, 0.7), step=2.0)
    angle = np.radians(0.15)
    turned = (1.0, 0.0, 0.0, 0.0, round(float(np.cos(angle)), 8), round(float(np.sin(angle)), 8))
    other = replace(one, orientation=turned, origin=(one.origin[0], one.origin[1], one.origin[2] + 0.7), constant=180.0)
    save(shuffled(scans([one, other], lambda ds, t, n: None), seed), folder)
    return Expected([one, other])


def excluded_slice_fits(folder: Path, seed: int) -> Expected:
    """A slice that is kept out for what it is was a slice of the stack: the volume would be an end short."""
    phantom = random_phantom(seed)
    made = datasets(phantom)
    ds = made[-1 if seed % 2 else 0]
    if seed % 4 < 2:
        ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    else:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(made, folder)
    return Expected([phantom], codes=("mixed_content",))


# ---- numbers that differ harmlessly


def numbered(change: Change, **options: object) -> Fault:
    """A sound series whose slices have their own numbers."""

    def fault(folder: Path, seed: int) -> Expected:
        phantom = random_phantom(seed, **options)  # type: ignore[arg-type]
        made = datasets(phantom)
        for number, ds in enumerate(made):
            change(ds, seed, number)
        save(shuffled(made, seed), folder)
        return Expected([phantom], must_be_right=True)

    return fault


def _every_slice(ds: FileDataset, seed: int, number: int) -> None:
    ds.AcquisitionNumber = number + 1 if seed % 2 else 100 - number


def _rotation(slices: int) -> Change:
    def change(ds: FileDataset, seed: int, number: int) -> None:
        ds.AcquisitionNumber = number // slices + 1
        ds.AcquisitionTime = f"10150{number // slices}.000000"[:13] if number // slices < 10 else "101510.000000"

    return change


def _in_two_runs(ds: FileDataset, seed: int, number: int) -> None:
    """An MR acquires the odd slices, then the even ones."""
    order = number // 2 if number % 2 == 0 else 20 + number // 2
    ds.AcquisitionNumber, ds.AcquisitionTime = order + 1, f"1015{order:02d}.000000"


def _in_two_packages(ds: FileDataset, seed: int, number: int) -> None:
    """An MR with too many slices for its repetition time: the odd ones in one acquisition, the even ones in the next."""
    ds.AcquisitionNumber = number % 2 + 1


def _clock_runs(ds: FileDataset, seed: int, number: int) -> None:
    ds.AcquisitionTime, ds.ContentTime = f"1015{number:02d}.250000", f"1016{number:02d}.250000"


def _each_position(ds: FileDataset, seed: int, number: int) -> None:
    ds.TemporalPositionIdentifier = number + 1


def _trigger(ds: FileDataset, seed: int, number: int) -> None:
    ds.TriggerTime = 700 + (number * 37) % 11


def _add_words(ds: FileDataset, seed: int, number: int) -> None:
    if number % 2:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "ADD"]


def _frame_of_each(ds: FileDataset, seed: int, number: int) -> None:
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of", str(seed), str(number)])


def _empty_tags(ds: FileDataset, seed: int, number: int) -> None:
    ds.SecondaryCaptureDeviceID, ds.DeviceSerialNumber, ds.ConversionType = "", "", "DF"


def _no_instance(ds: FileDataset, seed: int, number: int) -> None:
    ds.SOPInstanceUID = ""


def _agent_everywhere(ds: FileDataset, seed: int, number: int) -> None:
    ds.ContrastBolusAgent, ds.TriggerTime = "an agent", 712


@dataclass(frozen=True)
class Stepped(Phantom):
    """A phantom whose every rotation of four slices is a little brighter than the last, as the patient moved."""

    def value(self, points_lps: np.ndarray) -> np.ndarray:
        depths = (points_lps - np.array(self.origin)) @ self.normal
        return super().value(points_lps) + 9.0 * np.floor((depths + self.step / 2) / (4 * self.step))


def rotations_start_off(folder: Path, seed: int) -> Expected:
    """A step-and-shoot scan whose rotations do not join as well as their slices: one scan."""
    phantom = Stepped(**vars(random_phantom(seed, step=1.5, orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))))
    made = datasets(phantom)
    for number, ds in enumerate(made):
        ds.AcquisitionNumber = number // 4 + 1
    save(shuffled(made, seed), folder)
    return Expected([phantom], must_be_right=True)


def slabs(folder: Path, seed: int) -> Expected:
    """Two slabs with a wide gap, each an acquisition: two volumes."""
    one = random_phantom(seed, slope_per_mm=GENTLE)
    other = moved(one, one.step * (one.slices + 9.3), one.constant - 20.0)
    save(shuffled(scans([one, other], _acquisition), seed), folder)
    return Expected([one, other], must_be_right=True)


def passes_over_one_range(folder: Path, seed: int) -> Expected:
    """Before and after contrast, over ranges that overlap in part, as acquisitions of one series."""
    one = random_phantom(seed, slices=24)
    later = [replace(moved(one, 8 * one.step, 180.0), slices=14), replace(one, slices=12, constant=250.0)]
    truths = [one, *later[: 1 + seed % 2]]
    save(shuffled(scans(truths, _acquisition), seed), folder)
    return Expected(truths, must_be_right=True)


def passes_on_other_grids(folder: Path, seed: int) -> Expected:
    """One pass with its own step, that shares some places with the other."""
    one = random_phantom(seed, slices=21)
    other = replace(one, slices=11, step=one.step * 2, constant=180.0)
    save(shuffled(scans([one, other], _acquisition), seed), folder)
    return Expected([one, other], must_be_right=True)


def heart_in_time(folder: Path, seed: int) -> Expected:
    """A cine: each place is a breath-hold with its own acquisition number and trigger times."""
    base = random_phantom(seed, modality="MR", constant=600.0)
    truths = [replace(base, constant=600.0 + CONTRAST * t) for t in range(4)]

    def change(ds: FileDataset, t: int, number: int) -> None:
        ds.AcquisitionNumber, ds.InstanceNumber = number + 1, number * 4 + t + 1
        ds.TriggerTime = (t * (200 + number), number * 3 + t * 190)[seed % 2]

    save(shuffled(scans(truths, change), seed), folder)
    return Expected(truths, must_be_right=True)


def series_of_each_slice(folder: Path, seed: int) -> Expected:
    """A secondary export that gives every slice its own series."""
    phantom = random_phantom(seed)
    made = datasets(phantom)
    for number, ds in enumerate(made):
        ds.SeriesInstanceUID = generate_uid(entropy_srcs=["series of", str(seed), str(number)])
    save(shuffled(made, seed), folder)
    return Expected([phantom], must_be_right=True)


def _emptied(made: list[FileDataset]) -> list[FileDataset]:
    """As some programs of de-identification leave a file: identifiers stay in the file meta information alone."""
    for ds in made:
        ds.SeriesInstanceUID = ds.StudyInstanceUID = ds.SOPInstanceUID = ds.SOPClassUID = ds.PatientID = ""
    return made


def identifiers_emptied(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed)
    save(shuffled(_emptied(datasets(phantom)), seed), folder)
    return Expected([phantom], must_be_right=True)


def identifiers_emptied_gap(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed)
    made = _emptied(datasets(phantom))
    made.pop(int(rng(seed, "which").integers(1, len(made) - 1)))
    save(shuffled(made, seed), folder)
    return Expected([phantom], codes=("missing_slice",))


def identifiers_emptied_two_kernels(folder: Path, seed: int) -> Expected:
    """Two reconstructions in one folder, and nothing but the kernel to distinguish them."""
    one = random_phantom(seed, constant=100.0)
    other = replace(one, constant=100.0 + CONTRAST)

    def change(ds: FileDataset, t: int, number: int) -> None:
        ds.ConvolutionKernel = ("B31f", "B70f")[t]

    save(shuffled(_emptied(scans([one, other], change)), seed), folder)
    return Expected([one, other], must_be_right=True)


def identifiers_emptied_two_series(folder: Path, seed: int) -> Expected:
    """Two series in one folder, half a step apart or one after the other; their number, or the sex, distinguishes them."""
    one = random_phantom(seed, constant=100.0, slope_per_mm=GENTLE)
    other = moved(one, one.step * (0.5 if seed % 2 else one.slices), one.constant + CONTRAST)

    def change(ds: FileDataset, t: int, number: int) -> None:
        ds.SeriesNumber, ds.PatientSex = (3 + t, "F") if seed % 4 < 2 else (3, "MF"[t])

    made = _emptied(scans([one, other], change))
    for ds in made:
        ds.FrameOfReferenceUID = ""
    save(shuffled(made, seed), folder)
    return Expected([one, other], must_be_right=True)


def _short_time(ds: FileDataset, t: int, number: int) -> None:
    ds.AcquisitionTime = ("1015", "1030")[t]


def _moment(ds: FileDataset, t: int, number: int) -> None:
    ds.AcquisitionDateTime = ("20240102101500.250000+0100", "20240102103000.250000+0100")[t]


def _next_day(ds: FileDataset, t: int, number: int) -> None:
    ds.StudyDate, ds.AcquisitionDate, ds.AcquisitionTime = "", ("20240102", "20240103")[t], "101500"


def series_of_each_slice_gap(folder: Path, seed: int) -> Expected:
    expected = series_of_each_slice(folder, seed)
    paths = sorted(folder.iterdir(), key=lambda p: float(pydicom.dcmread(p).InstanceNumber))
    paths[int(rng(seed, "which").integers(1, len(paths) - 1))].unlink()
    return replace(expected, must_be_right=False, codes=("few_slices", "missing_slice"))


def series_of_the_last(folder: Path, seed: int) -> Expected:
    """The identifier of the series is damaged in a slice at an end."""
    phantom = random_phantom(seed)
    made = datasets(phantom)
    ds = made[-1 if seed % 2 else 0]
    ds.SeriesInstanceUID = ds.SeriesInstanceUID[:-1] + str((int(ds.SeriesInstanceUID[-1]) + 1) % 10)
    save(shuffled(made, seed), folder)
    return Expected([phantom], codes=("mixed_series",))


def slice_of_a_sparse_series(folder: Path, seed: int) -> Expected:
    """Beside a series another of a single slice, as bolus tracking leaves it: it completes nothing."""
    phantom = random_phantom(seed)
    made = datasets(phantom)
    single = datasets(replace(moved(phantom, phantom.step * 4.4, 100.0), slices=1), series="b")
    save([*made, *single], folder)
    return Expected([phantom], must_be_right=True)


# ---- geometry


def positions_rounded(folder: Path, seed: int) -> Expected:
    """A scanner that writes positions to a tenth of a millimetre."""
    phantom = random_phantom(seed, step=round(float(rng(seed, "step").uniform(1.2, 8.0)), 3), slope_per_mm=GENTLE)
    made = datasets(phantom)
    for ds, position in zip(made, phantom.positions(), strict=True):
        ds.ImagePositionPatient = [f"{v:.1f}" for v in position]
    save(made, folder)
    return Expected([phantom], resampled=True, must_be_right=True)


def _micro(folder: Path, seed: int, change: Callable[[list[FileDataset]], None], **found: object) -> Expected:
    step = round(float(rng(seed, "step").uniform(0.009, 0.02)), 4)
    phantom = random_phantom(seed, spacing=(step, step), step=step, slope_per_mm=(300.0, 200.0, 500.0), origin=(-0.2, 0.1, 0.3))
    made = datasets(phantom)
    change(made)
    save(shuffled(made, seed), folder)
    return Expected([phantom], **found)  # type: ignore[arg-type]


def micro_ct(folder: Path, seed: int) -> Expected:
    return _micro(folder, seed, lambda made: None, must_be_right=True)


def micro_ct_gap(folder: Path, seed: int) -> Expected:
    return _micro(folder, seed, lambda made: made.pop(len(made) // 2), codes=("missing_slice",))


def micro_ct_shifted(folder: Path, seed: int) -> Expected:
    def change(made: list[FileDataset]) -> None:
        ds = made[len(made) // 2]
        along = np.array(ds.ImageOrientationPatient[:3], float) * 0.4 * float(ds.PixelSpacing[1])
        ds.ImagePositionPatient = [repr(round(float(v), 7)) for v in np.array(ds.ImagePositionPatient, float) + along]

    return _micro(folder, seed, change, codes=("shifted",), contradictory=True)


def steps_all_to_one_side(folder: Path, seed: int) -> Expected:
    """Steps that differ by less than 1 %, the first half too long, the second too short."""
    base = random_phantom(seed, slices=60)
    steps = np.where(np.arange(59) < 30, base.step * 1.004, base.step * 0.996)
    phantom = replace(base, depths=tuple(np.round(np.concatenate([[0.0], np.cumsum(steps)]), 6)))
    save(datasets(phantom), folder)
    return Expected([phantom], codes=("uneven",))


# ---- how values are read


@dataclass(frozen=True)
class Round(Phantom):
    """A phantom inside a circle, air outside of it."""

    reach: float = 1.0
    """Radius of the circle, in half sides of the image."""

    def inside(self, points_lps: np.ndarray) -> np.ndarray:
        along = (points_lps - np.array(self.origin)) @ np.stack([self.orientation[:3], self.orientation[3:]], axis=1)
        i, j = along[..., 0] / self.spacing[1], along[..., 1] / self.spacing[0]
        reach = self.reach * 0.5 * min(self.columns, self.rows) - 2.26
        return np.hypot(i - self.columns / 2, j - self.rows / 2) < reach

    def value(self, points_lps: np.ndarray) -> np.ndarray:
        return np.where(self.inside(points_lps), super().value(points_lps), -1024.0)


def _rescaled(change: Callable[[list[FileDataset], int], None], codes: tuple[str, ...], **options: object) -> Fault:
    def fault(folder: Path, seed: int) -> Expected:
        phantom = random_phantom(seed, **options)  # type: ignore[arg-type]
        made = datasets(phantom)
        for ds in made:
            if phantom.modality != "CT":
                ds.RescaleSlope, ds.RescaleIntercept = 2, 0
                set_values(ds, phantom.plane(np.array(ds.ImagePositionPatient, float)))
        change(made, seed)
        save(made, folder)
        return Expected([phantom], contradictory=True, codes=codes)

    return fault


def _empty_slope(made: list[FileDataset], seed: int) -> None:
    for ds in made if seed % 2 else made[seed % len(made) :][:1]:
        ds.RescaleSlope = [None, [2, 2], [1, 2]][seed % 3]


def _no_slope(made: list[FileDataset], seed: int) -> None:
    for ds in made:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.128"
        del ds.RescaleSlope, ds.RescaleIntercept


def _no_intercept(made: list[FileDataset], seed: int) -> None:
    for ds in made:
        del ds.RescaleIntercept


def _other_unit(made: list[FileDataset], seed: int) -> None:
    for ds in made:
        ds.RescaleType = ["Z_EFF", "MGML", "ED", "HU_MOD", "PCT"][seed % 5]


def signed_read_as_unsigned(folder: Path, seed: int) -> Expected:
    """Signed pixels whose header says that they are unsigned: negative values, or the padding alone."""
    phantom = Round(**vars(random_phantom(seed, constant=-100.0, slope_per_mm=GENTLE)), reach=1.45)
    made = datasets(phantom)
    for ds, position in zip(made, phantom.positions(), strict=True):
        values = np.rint(phantom.plane(position)).astype(int)
        ds.RescaleIntercept = -1024 if seed % 2 else -1
        stored = np.where(values == -1024, -2000, values - int(ds.RescaleIntercept)).astype(np.int16)
        set_stored(ds, stored, bits=16)
        ds.PixelRepresentation = 0
    save(made, folder)
    return Expected([phantom], codes=("implausible_hu",))


def _table(made: list[FileDataset], seed: int) -> None:
    for ds in made:
        del ds.RescaleSlope, ds.RescaleIntercept
        table = Dataset()
        table.add_new(0x00283002, "US", [4096, 0, 16])
        table.ModalityLUTType = "US"
        table.add_new(0x00283006, "OW", (np.arange(4096) * 2).astype("<u2").tobytes())
        ds.ModalityLUTSequence = Items([table])


def padding_lowest(folder: Path, seed: int) -> Expected:
    """Padding of -32768 with an intercept of -1024, or a whole range of padding values."""
    phantom = Round(**vars(random_phantom(seed)))
    made = datasets(phantom)
    for ds, position in zip(made, phantom.positions(), strict=True):
        stored = np.rint(phantom.plane(position) + 1024).astype(np.int16)
        outside = stored == 0
        # inside the circle no value is air
        stored[outside] = -32768
        ds.add_new(0x00280120, "SS", -32768)
        if seed % 2:
            stored[outside] = rng(seed, "rim", str(position[2])).integers(-32768, -32000, int(outside.sum()))
            ds.add_new(0x00280121, "SS", -32000)
        set_stored(ds, stored, bits=16)
    save(made, folder)
    return Expected([phantom], must_be_right=True)


def padding_highest(folder: Path, seed: int) -> Expected:
    """Unsigned pixels whose padding lies above every value."""
    phantom = Round(**vars(random_phantom(seed)))
    made = datasets(phantom)
    for ds, position in zip(made, phantom.positions(), strict=True):
        stored = np.rint(phantom.plane(position) + 1024).astype(np.uint16)
        stored[stored == 0] = 65535
        ds.add_new(0x00280120, "US", 65535)
        set_stored(ds, stored, bits=16)
    save(made, folder)
    return Expected([phantom], must_be_right=True)


# ---- enhanced objects


def _enhanced(folder: Path, seed: int, change: Callable[[FileDataset, Phantom], None], **options: object) -> Phantom:
    phantom = random_phantom(seed, constant=0.0, **options)  # type: ignore[arg-type]
    ds = enhanced_file(phantom)
    change(ds, phantom)
    save([ds], folder)
    return phantom


def enhanced_frame_without_rescale(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed, modality="MR", constant=600.0)
    ds = enhanced_file(phantom)
    shared = ds.SharedFunctionalGroupsSequence[0]
    transform = shared.PixelValueTransformationSequence
    transform[0].RescaleSlope = 2
    del shared.PixelValueTransformationSequence
    odd = int(rng(seed, "which").integers(0, phantom.slices))
    for n, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        if n != odd:
            item.PixelValueTransformationSequence = transform
        elif seed % 2:
            empty = Dataset()
            empty.RescaleSlope, empty.RescaleIntercept, empty.RescaleType = None, 0, "US"
            item.PixelValueTransformationSequence = Items([empty])
    save([ds], folder)
    return Expected([phantom], contradictory=True, codes=("mixed_rescale", "bad_rescale"))


def enhanced_part_of_two(folder: Path, seed: int) -> Expected:
    def change(ds: FileDataset, phantom: Phantom) -> None:
        ds.ConcatenationUID = generate_uid(entropy_srcs=["parts", str(seed)])
        ds.InConcatenationNumber = 1 + seed % 2
        if seed % 3:
            ds.InConcatenationTotalNumber = 2
        ds.ConcatenationFrameOffsetNumber = 0

    return Expected([_enhanced(folder, seed, change)], contradictory=True, codes=("incomplete",))


def enhanced_in_parts(folder: Path, seed: int) -> Expected:
    """An object in two parts, both here."""
    phantom = random_phantom(seed, constant=0.0)
    half = phantom.slices // 2
    for part, frames in enumerate((np.arange(half), np.arange(half, phantom.slices))):
        ds = enhanced_file(phantom, order=frames)
        uid = generate_uid(entropy_srcs=["part", str(seed), str(part)])
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
        ds.ConcatenationUID = generate_uid(entropy_srcs=["parts", str(seed)])
        ds.InConcatenationNumber, ds.InConcatenationTotalNumber = part + 1, 2
        ds.ConcatenationFrameOffsetNumber = part * half
        save([ds], folder, names=lambda n, part=part: f"{part}.dcm")  # type: ignore[misc]
    return Expected([phantom], must_be_right=True)


def _frame_types(types: Callable[[int, int, int], list[str]]) -> Callable[[FileDataset, Phantom], None]:
    def change(ds: FileDataset, phantom: Phantom) -> None:
        ds.ImageType = ["MIXED", "PRIMARY", "VOLUME", "NONE"]
        for n, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
            kind = Dataset()
            kind.FrameType = types(phantom.seed, n, phantom.slices)
            item.CTImageFrameTypeSequence = Items([kind])

    return change


def enhanced_derived_frames(folder: Path, seed: int) -> Expected:
    words = ["DERIVED", "PRIMARY", "VOLUME", "MPR"] if seed % 2 else ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    change = _frame_types(lambda s, n, count: words)
    return Expected([_enhanced(folder, seed, change)], contradictory=True, codes=("derived", "localizer"))


def enhanced_one_derived_frame(folder: Path, seed: int) -> Expected:
    def types(s: int, n: int, count: int) -> list[str]:
        end = count - 1 if s % 2 else 0
        return ["DERIVED" if n == end else "ORIGINAL", "PRIMARY", "VOLUME", "NONE"]

    return Expected([_enhanced(folder, seed, _frame_types(types))], codes=("mixed_content",))


def _enhanced_scans(mark: Callable[[Dataset, int], None]) -> Fault:
    """Frames of two contrasts at one stack identifier, abutting."""

    def fault(folder: Path, seed: int) -> Expected:
        one = random_phantom(seed, constant=0.0, slope_per_mm=GENTLE)
        other = moved(one, one.step * one.slices, CONTRAST)
        ds, second = enhanced_file(one), enhanced_file(other)
        for n, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
            mark(item, 0)
            item.FrameContentSequence[0].InStackPositionNumber = n + 1
        for n, item in enumerate(second.PerFrameFunctionalGroupsSequence):
            mark(item, 1)
            item.FrameContentSequence[0].InStackPositionNumber = one.slices + n + 1
            ds.PerFrameFunctionalGroupsSequence.append(item)
        ds.NumberOfFrames = one.slices + other.slices
        ds.PixelData = ds.PixelData + second.PixelData
        save([ds], folder)
        return Expected([one, other])

    return fault


def _frame_voltage(item: Dataset, t: int) -> None:
    details = Dataset()
    details.KVP = (80, 140)[t]
    item.CTXRayDetailsSequence = Items([details])


def _frame_kernel(item: Dataset, t: int) -> None:
    details = Dataset()
    details.ConvolutionKernel = ("soft", "hard")[t]
    item.CTReconstructionSequence = Items([details])


def _frame_acquisition(item: Dataset, t: int) -> None:
    item.FrameContentSequence[0].FrameAcquisitionNumber = t + 1


def _frame_phase(item: Dataset, t: int) -> None:
    heart = Dataset()
    heart.NominalPercentageOfCardiacPhase = (40.0, 75.0)[t]
    item.CardiacSynchronizationSequence = Items([heart])


SLICE_FAULTS: dict[str, Fault] = {
    # ids, patients
    "frames_of_reference_abutting": two(_frame, "next"),
    "frames_of_reference_over_each_other": two(_frame, "half"),
    "patients_abutting": two(_patient, "next"),
    "patients_half_a_step_apart": two(_patient, "half"),
    "studies_half_a_step_apart": two(_study, "half"),
    "patient_of_a_few": fewer(_patient, ("mixed_patient",), contrast=0.0),
    "frame_of_a_few": fewer(_frame, ("mixed_frame",), contrast=0.0),
    # scans and contrasts
    **{
        f"{name}_{where}": two(change, place, **options)
        for name, change, options in (
            ("acquisitions", _acquisition, {}), ("voltages", _voltage, {}), ("energies", _energy, {}), ("kernels", _kernel, {}),
            ("types", _type, {}), ("phases", _phase, {}), ("temporal_positions", _temporal, {}), ("agents", _agent, {}),
            ("inversions", _inversion, {"modality": "MR"}), ("units", _unit, {"modality": "MR"}),
            ("acquisitions_mr", _acquisition, {"modality": "MR"}),
        )
        for where, place in (("abutting", "next"), ("half_a_step_apart", "half"))
    },
    "acquisitions_on_another_grid": two(_acquisition, "grid"),
    "clocks_half_a_step_apart": two(_clock, "half"),
    "clocks_abutting": two(_clock, "next"),
    "clocks_without_seconds_half_a_step_apart": two(_short_time, "half"),
    "clocks_without_seconds_abutting": two(_short_time, "next"),
    "moments_half_a_step_apart": two(_moment, "half"),
    "moments_abutting": two(_moment, "next"),
    "days_half_a_step_apart": two(_next_day, "half"),
    "days_abutting": two(_next_day, "next"),
    "clocks_of_slices_abutting": two(_clock_of_each, "next"),
    "clocks_of_slices_half_a_step_apart": two(_clock_of_each, "half"),
    "clock_of_a_few": fewer(_clock, ("mixed_content",)),
    "acquisition_of_a_few": fewer(_acquisition, ("mixed_content",)),
    "voltage_of_a_few": fewer(_voltage, ("mixed_content",)),
    "phase_of_a_few": fewer(_phase, ("mixed_content",)),
    # numbers of slices
    "acquisition_of_every_slice": numbered(_every_slice),
    "acquisition_of_every_rotation": numbered(_rotation(4)),
    "acquisition_of_every_short_rotation": numbered(_rotation(2)),
    "acquisition_in_two_packages": numbered(_in_two_packages, modality="MR", constant=600.0),
    "acquisition_in_two_runs": numbered(_in_two_runs, modality="MR", constant=600.0),
    "clock_of_every_slice": numbered(_clock_runs),
    "temporal_position_of_every_slice": numbered(_each_position),
    "trigger_of_every_slice": numbered(_trigger, modality="MR", constant=600.0),
    "types_with_add": numbered(_add_words),
    "agent_everywhere": numbered(_agent_everywhere),
    "frame_of_every_file": numbered(_frame_of_each),
    "empty_capture_device": numbered(_empty_tags),
    "no_instance_identifier": numbered(_no_instance),
    # values
    "slope_empty_mr": _rescaled(_empty_slope, ("bad_rescale", "mixed_rescale"), modality="MR", constant=600.0),
    "slope_absent_pt": _rescaled(_no_slope, ("no_rescale",), modality="PT", constant=600.0),
    "slope_alone_mr": _rescaled(_no_intercept, ("no_rescale", "bad_rescale"), modality="MR", constant=600.0),
    "slope_empty_ct": _rescaled(_empty_slope, ("bad_rescale", "mixed_rescale")),
    "not_hounsfield": _rescaled(_other_unit, ("not_hounsfield",)),
    "modality_table": _rescaled(_table, ("modality_lut",), modality="MR", constant=600.0),
    # frames
    "enhanced_voltages": _enhanced_scans(_frame_voltage),
    "enhanced_kernels": _enhanced_scans(_frame_kernel),
    "enhanced_acquisitions": _enhanced_scans(_frame_acquisition),
    "enhanced_phases": _enhanced_scans(_frame_phase),
    **{
        f.__name__: f
        for f in (
            oblique_stacks, excluded_slice_fits, rotations_start_off, slabs, passes_over_one_range, passes_on_other_grids,
            heart_in_time, series_of_each_slice, series_of_each_slice_gap, series_of_the_last,
            identifiers_emptied, identifiers_emptied_gap, identifiers_emptied_two_kernels, identifiers_emptied_two_series,
            slice_of_a_sparse_series, positions_rounded, micro_ct, micro_ct_gap,
            micro_ct_shifted, signed_read_as_unsigned,
            steps_all_to_one_side, padding_lowest, padding_highest, enhanced_frame_without_rescale,
            enhanced_part_of_two, enhanced_in_parts, enhanced_derived_frames, enhanced_one_derived_frame,
        )
    },
}  # fmt: skip

HARMLESS = (
    "acquisition_of_every_slice", "acquisition_of_every_rotation", "acquisition_of_every_short_rotation",
    "acquisition_in_two_packages", "acquisition_in_two_runs", "clock_of_every_slice", "temporal_position_of_every_slice",
    "trigger_of_every_slice",
    "types_with_add", "agent_everywhere",
    "frame_of_every_file", "empty_capture_device", "no_instance_identifier",
    "rotations_start_off", "slabs", "passes_over_one_range", "passes_on_other_grids", "heart_in_time", "series_of_each_slice",
    "identifiers_emptied", "identifiers_emptied_two_kernels", "identifiers_emptied_two_series",
    "slice_of_a_sparse_series",
    "positions_rounded", "micro_ct", "padding_lowest", "padding_highest", "enhanced_in_parts",
)  # fmt: skip
"""Classes of sound series: a refusal is a fault of the reader."""
POLICY = (
    "patient_of_a_few", "frame_of_a_few", "excluded_slice_fits", "series_of_the_last", "enhanced_derived_frames",
    "enhanced_one_derived_frame",
)  # fmt: skip
"""What medssl refuses as a matter of policy: a peer that reads it is not wrong."""
