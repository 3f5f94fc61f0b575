"""Grid files whose names, headers or masks say something else than is usual: fields, label maps, axes in another order.

Each class is as those of `faults.py`. `HARMLESS` names the classes with which nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from faults import Expected, nifti_image
from faults_masks import MaskExpected, _boxes, _refused, _save_nifti
from faults_slices import Round
from phantoms import datasets, random_phantom, save, set_stored

from medssl.core.rng import rng

Fault = Callable[[Path, int], Expected]


def nifti_displacement_field(folder: Path, seed: int) -> Expected:
    """Three components in the fourth dimension, with an intent code that says so (nifti1.h): they are not time points."""
    phantom = random_phantom(seed)
    image = nifti_image(phantom)
    folder.mkdir(parents=True, exist_ok=True)
    field = np.stack([np.asarray(image.dataobj).astype(np.float32)] * 3, axis=-1)
    values = (field, field[:, :, :, None, :], field[..., :1])[seed // 7 % 3]
    made = nibabel.Nifti1Image(values, image.affine)
    made.set_sform(image.affine, 1)
    made.header["intent_code"] = (1006, 1007, 2006, 1005, 2007, 2003, 1010)[seed % 7]
    nibabel.save(made, folder / "sub-1_img.nii.gz")
    return Expected([phantom], contradictory=True, codes=("not_scalar",))


def nifti_label_by_intent(folder: Path, seed: int) -> Expected:
    """A label map that says so in its header alone (intent code 1002)."""
    phantom = random_phantom(seed)
    image = nifti_image(phantom)
    folder.mkdir(parents=True, exist_ok=True)
    made = nibabel.Nifti1Image(_boxes(phantom, seed), image.affine)
    made.set_sform(image.affine, 1)
    made.header["intent_code"] = 1002
    nibabel.save(made, folder / "sub-1.nii.gz")
    return Expected([phantom], contradictory=True, codes=("label_map",))


def nifti_padding_without_its_sign(folder: Path, seed: int) -> Expected:
    """A CT in unsigned 16 bits, whose padding of -2000 outside the scanned circle is 63536; with and without an intercept."""
    phantom = Round(**vars(random_phantom(seed, constant=-100.0, slope_per_mm=(1.0, -0.5, 0.7))))
    image = nifti_image(phantom)
    values = np.asarray(image.dataobj)
    intercept = (-1024, 0)[seed % 2]
    if intercept == 0:
        phantom = Round(**{**vars(phantom), "constant": 100.0, "slope_per_mm": (0.2, 0.1, 0.2)})
        values = np.asarray(nifti_image(phantom).dataobj)
    stored = np.where(values == -1024, 63536, values.astype(int) - intercept).astype(np.uint16)
    folder.mkdir(parents=True, exist_ok=True)
    made = nibabel.Nifti1Image(stored, image.affine)
    made.set_sform(image.affine, 1)
    made.header.set_slope_inter(1, intercept)
    nibabel.save(made, folder / "sub-1_ct.nii.gz")
    return Expected([phantom], must_be_right=True)


def padding_without_its_sign(folder: Path, seed: int) -> Expected:
    """The same in DICOM, where the header declares no padding (PS3.3 C.7.5.1.1.2)."""
    phantom = Round(**vars(random_phantom(seed, constant=-100.0, slope_per_mm=(1.0, -0.5, 0.7))))
    made = datasets(phantom)
    for ds, position in zip(made, phantom.positions(), strict=True):
        values = np.rint(phantom.plane(position)).astype(int)
        set_stored(ds, np.where(values == -1024, 63536, values + 1024).astype(np.uint16), bits=16)
    save(made, folder)
    return Expected([phantom], must_be_right=True)


def _reordered(labels: np.ndarray, affine: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same labels at the same places, in another order of the axes and another direction along them; never as they were."""
    orders = list(permutations(range(3)))
    order, flips = orders[seed % 6], rng(seed, "flips").integers(0, 2, 3).astype(bool)
    if order == (0, 1, 2) and not flips.any():
        flips[seed % 3] = True
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, old in enumerate(order):
        turn[old, new] = -1 if flips[new] else 1
        turn[old, 3] = labels.shape[old] - 1 if flips[new] else 0
    turned = labels.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return turned, affine @ turn


def mask_in_another_order(folder: Path, seed: int) -> MaskExpected:
    """A mask whose axes are permuted and flipped: each of its voxels is one of the image's."""
    return _mask_of(folder, seed, lambda labels, affine: _reordered(labels, affine, seed))


def mask_in_another_order_and_off(folder: Path, seed: int) -> MaskExpected:
    """The same, and a voxel away from the image."""

    def change(labels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels, affine = _reordered(labels, affine, seed)
        moved = affine.copy()
        moved[:3, 3] += moved[:3, seed % 3]
        return labels, moved

    return _mask_of(folder, seed, change, **_refused("mask_mismatch"))


def mask_turned_a_little(folder: Path, seed: int) -> MaskExpected:
    """Ten degrees between mask and image: no order of axes mends that."""

    def change(labels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
        turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        return labels, turn @ affine

    return _mask_of(folder, seed, change, **_refused("mask_mismatch"))


def _mask_of(folder: Path, seed: int, change: Callable[..., tuple[np.ndarray, np.ndarray]], **found: Any) -> MaskExpected:
    phantom = random_phantom(seed)
    image = nifti_image(phantom)
    labels = _boxes(phantom, seed)
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, folder / "sub-1_ct.nii.gz")
    _save_nifti(folder / "sub-1_seg.nii.gz", *change(labels, image.affine))
    return MaskExpected([phantom], must_be_right=True, labels=labels, **found)


NAMED_FAULTS: dict[str, Fault] = {
    f.__name__: f for f in (nifti_displacement_field, nifti_label_by_intent, nifti_padding_without_its_sign)
}
NAMED_DICOM_FAULTS: dict[str, Fault] = {f.__name__: f for f in (padding_without_its_sign,)}
MASK_ORDER_FAULTS: dict[str, Fault] = {
    f.__name__: f for f in (mask_in_another_order, mask_in_another_order_and_off, mask_turned_a_little)
}
HARMLESS = {"nifti_padding_without_its_sign", "padding_without_its_sign", *MASK_ORDER_FAULTS}
"""The image of a mask that is refused is sound."""
