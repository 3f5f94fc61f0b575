"""Distances between the surfaces of two masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage


@dataclass(frozen=True)
class Pair:
    """A predicted and a true mask of one class on one grid, cropped to their union, with voxel size in mm."""

    prediction: Bool[np.ndarray, "*size"]
    target: Bool[np.ndarray, "*size"]
    spacing_mm: tuple[float, ...]

    @property
    def empty(self) -> str:
        """`` if neither is empty, else `both`, `prediction` (a miss) or `target` (a false alarm)."""
        predicted, true = bool(self.prediction.any()), bool(self.target.any())
        return "" if predicted and true else "prediction" if true else "target" if predicted else "both"


def pair(prediction: Bool[np.ndarray, "*size"], target: Bool[np.ndarray, "*size"], spacing_mm: tuple[float, ...]) -> Pair:
    """The two masks cropped to their common bounding box and one voxel around it (so that every voxel has neighbours).

    A single slice is an image: there is no surface along an axis of one voxel.
    """
    flat = tuple(axis for axis, size in enumerate(target.shape) if size == 1)[: target.ndim - 1]
    prediction, target = np.squeeze(prediction, flat), np.squeeze(target, flat)
    spacing_mm = tuple(size for axis, size in enumerate(spacing_mm) if axis not in flat)
    either = prediction | target
    if not either.any():
        return Pair(prediction, target, spacing_mm)
    box = ndimage.find_objects(either.astype(np.uint8))[0]
    return Pair(np.pad(prediction[box], 1), np.pad(target[box], 1), spacing_mm)


def surface_distances_mm(masks: Pair) -> tuple[Float64[np.ndarray, "of_prediction"], Float64[np.ndarray, "of_target"]]:
    """Distance of each surface voxel of the prediction from the target's surface, and vice versa, in mm.

    The surface is what one step of erosion (6 or 4 neighbours) removes, as in MONAI's `get_mask_edges`.
    """
    of_prediction = masks.prediction ^ ndimage.binary_erosion(masks.prediction)
    of_target = masks.target ^ ndimage.binary_erosion(masks.target)
    to_target = ndimage.distance_transform_edt(~of_target, sampling=masks.spacing_mm)
    to_prediction = ndimage.distance_transform_edt(~of_prediction, sampling=masks.spacing_mm)
    return to_target[of_prediction], to_prediction[of_target]
