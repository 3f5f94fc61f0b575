"""Faults and harmless quirks of NIfTI files: values that cannot be an image's, affines, units, voxels of micrometres."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from faults import Expected, _edit_header, _nifti, nifti_image
from phantoms import Phantom, random_phantom

from medssl.core.rng import rng


@dataclass(frozen=True)
class Spiked(Phantom):
    """A phantom some of whose voxels hold another number."""

    spikes: tuple[tuple[float, float, float, float], ...] = ()
    """(x, y, z in LPS mm, value) of each."""

    def value(self, points_lps: np.ndarray) -> np.ndarray:
        out = super().value(points_lps)
        for *place, number in self.spikes:
            near = np.linalg.norm(points_lps - np.array(place), axis=-1) < 0.1 * min(*self.spacing, self.step)
            out = np.where(near, number, out)
        return out


def _save(image: nibabel.Nifti1Image, values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = nibabel.Nifti1Image(values, image.affine)
    made.set_sform(image.affine, 1)
    made.set_qform(None, 0)
    made.header.set_xyzt_units("mm")
    nibabel.save(made, path)


def _spike(phantom: Phantom, seed: int, numbers: list[float]) -> tuple[Spiked, nibabel.Nifti1Image, np.ndarray]:
    """A float image some of whose voxels hold `numbers`, and its truth."""
    image = nifti_image(phantom)
    values = np.asarray(image.dataobj).astype(np.float32)
    where = rng(seed, "voxel").choice(values.size, len(numbers), replace=False)
    index = np.stack(np.unravel_index(where, values.shape), axis=1)
    values[tuple(index.T)] = numbers
    points = (index @ image.affine[:3, :3].T + image.affine[:3, 3]) * [-1.0, -1.0, 1.0]
    spikes = tuple((*map(float, point), float(np.float32(number))) for point, number in zip(points, numbers, strict=True))
    return Spiked(**{**vars(phantom), "spikes": spikes}), image, values


def nifti_outlier(folder: Path, seed: int) -> Expected:
    """One voxel far beyond all others, as a division by almost nothing leaves it: the file is read as it is."""
    number = [1e7, 1e9, 1e20, -1e20, 3e38][seed % 5]
    truth, image, values = _spike(random_phantom(seed, modality="MR", constant=600.5), seed, [number])
    _save(image, values, folder / "sub-1_T1w.nii.gz")
    return Expected([truth], must_be_right=True)


def nifti_outliers(folder: Path, seed: int) -> Expected:
    """A handful of such voxels, of both signs."""
    truth, image, values = _spike(random_phantom(seed, modality="MR", constant=600.5), seed, [1e9, -3e9, 2e12, 5e7, -1e8])
    _save(image, values, folder / "sub-1_T1w.nii.gz")
    return Expected([truth], must_be_right=True)


def nifti_ct_outlier(folder: Path, seed: int) -> Expected:
    """No tissue and no metal has 3.4e7 HU."""
    truth, image, values = _spike(random_phantom(seed), seed, [[3.4e7, 4e4, 1e9][seed % 3]])
    _save(image, values, folder / "sub-1_ct.nii.gz")
    return Expected([truth], contradictory=True, codes=("implausible_hu",))


def nifti_wide(folder: Path, seed: int) -> Expected:
    """A map whose junk spans thirty powers of ten: no 16 bits hold it and the tissue."""
    phantom = random_phantom(seed, modality="MR")
    image = nifti_image(phantom)
    values = np.asarray(image.dataobj).astype(np.float32)
    junk = rng(seed, "junk").random(values.shape) < 0.2
    values[junk] = 10 ** rng(seed, "powers").uniform(4, 34, int(junk.sum()))
    _save(image, values, folder / "sub-1_T1w.nii.gz")
    return Expected([phantom], contradictory=True, codes=("wide_range",))


def nifti_ct_offset(folder: Path, seed: int) -> Expected:
    """An intercept that was added twice, or once with the wrong sign."""
    phantom = random_phantom(seed, constant=20.0)
    image = nifti_image(phantom)
    values = np.asarray(image.dataobj) + [2024, 1024, 2048][seed % 3]
    _save(image, values.astype(np.int16), folder / "sub-1_ct.nii.gz")
    return Expected([phantom], contradictory=True, codes=("implausible_hu",))


def nifti_ct_wrapped(folder: Path, seed: int) -> Expected:
    """Signed values read as unsigned: −24 HU is 65,512."""
    phantom = random_phantom(seed, constant=0.0)
    image = nifti_image(phantom)
    values = np.asarray(image.dataobj)
    values = values - np.int16(values.min() + 5)
    _save(image, values.astype(np.uint16), folder / "sub-1_ct.nii.gz")
    return Expected([phantom], contradictory=True, codes=("implausible_hu",))


def nifti_pixdim_zero(folder: Path, seed: int) -> Expected:
    """nifti1.h: pixdim[0] of 0 should not occur and counts as 1; the sform does not need it."""
    phantom, path = _nifti(folder, seed, "sub-1_ct.nii")
    _edit_header(path, 76, "f", 0.0)
    return Expected([phantom], must_be_right=True)


def nifti_unused_quaternion(folder: Path, seed: int) -> Expected:
    """A quaternion that is not a rotation, with a sound sform."""
    phantom, path = _nifti(folder, seed, "sub-1_ct.nii")
    _edit_header(path, 256, "fff", *[(np.nan, 0.0, 0.0), (3.0, 1.0, 0.0), (0.9, 0.9, 0.9)][seed % 3])
    return Expected([phantom], must_be_right=True)


def nifti_half_turn(folder: Path, seed: int) -> Expected:
    """Near a half turn the quaternion's first number has no digits left: the two forms differ only by rounding."""
    phantom = random_phantom(seed, orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nifti_image(phantom), path := folder / "sub-1_ct.nii")
    # the image of a phantom in LPS is a half turn about z: (b, c, d) = (0, 0, 1)
    _edit_header(path, 264, "f", float(np.nextafter(np.float32(1), np.float32(0))))
    return Expected([phantom], must_be_right=True)


def nifti_unit(folder: Path, seed: int) -> Expected:
    """Micrometres and metres, of voxels whose number alone would look impossible."""
    unit, mm = [("micron", 1e-3), ("meter", 1e3)][seed % 2]
    phantom = random_phantom(seed)
    image = nifti_image(phantom)
    affine = np.diag([1 / mm, 1 / mm, 1 / mm, 1]) @ image.affine
    made = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    made.set_sform(affine, 1)
    made.set_qform(affine, 1)
    made.header.set_xyzt_units(unit)
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(made, folder / "sub-1_ct.nii")
    return Expected([phantom], must_be_right=True)


def micro_phantom(seed: int) -> Phantom:
    """Voxels of 9 to 20 µm."""
    side = float(rng(seed, "side").choice([0.009, 0.015, 0.02]))
    return random_phantom(
        seed,
        modality="MR",
        constant=600.0,
        spacing=(side, side),
        step=side,
        origin=(-0.2, 0.1, -0.1),
        slope_per_mm=(310.0, 190.0, 520.0),
    )


def nifti_micro(folder: Path, seed: int) -> Expected:
    phantom = micro_phantom(seed)
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nifti_image(phantom), folder / "sub-1_img.nii.gz")
    return Expected([phantom], must_be_right=True)


def nifti_micro_forms_differ(folder: Path, seed: int) -> Expected:
    """Five voxels are less than a tenth of a millimetre."""
    phantom = micro_phantom(seed)
    image = nifti_image(phantom)
    moved = image.affine.copy()
    moved[:3, 3] += rng(seed, "way").choice([-1, 1], 3) * rng(seed, "far").uniform(0.6, 5) * phantom.step
    image.set_qform(moved, 1)
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, folder / "sub-1_img.nii.gz")
    return Expected([phantom], contradictory=True, codes=("affines_disagree",))


def nifti_ct_rim(folder: Path, seed: int) -> Expected:
    """The scanner's number for "outside the circle" stays in many converted CTs."""
    fill = [-3024.0, -2000.0, -2048.0][seed % 3]
    phantom = random_phantom(seed, constant=0.0)
    image = nifti_image(phantom)
    values = np.asarray(image.dataobj).copy()
    values[0] = fill
    index = np.stack(np.meshgrid([0], *[np.arange(n) for n in values.shape[1:]], indexing="ij"), axis=-1).reshape(-1, 3)
    points = (index @ image.affine[:3, :3].T + image.affine[:3, 3]) * [-1.0, -1.0, 1.0]
    _save(image, values, folder / "sub-1_ct.nii.gz")
    truth = Spiked(**{**vars(phantom), "spikes": tuple((*map(float, p), fill) for p in points)})
    return Expected([truth], must_be_right=True)


NIFTI_FAULTS: dict[str, Callable[[Path, int], Expected]] = {
    f.__name__: f
    for f in (
        nifti_outlier, nifti_outliers, nifti_ct_outlier, nifti_wide, nifti_ct_offset, nifti_ct_wrapped, nifti_pixdim_zero,
        nifti_unused_quaternion, nifti_half_turn, nifti_unit, nifti_micro, nifti_micro_forms_differ, nifti_ct_rim,
    )
}  # fmt: skip
HARMLESS = {"nifti_pixdim_zero", "nifti_unused_quaternion", "nifti_half_turn", "nifti_unit", "nifti_micro", "nifti_ct_rim"}
HARMLESS |= {"nifti_outlier", "nifti_outliers"}
