"""Where a crop lies in an image: its sides in voxels or in mm, and rotations in the plane of the slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from medssl.artefacts.volumes import Volume
from medssl.core.errors import StudyError


def spacings_mm(volumes: Sequence[Volume]) -> Float[np.ndarray, "volumes 3"]:
    """The voxel size of each volume along i, j, k.

    Raises:
        StudyError: one has none, as pictures have.
    """
    without = [volume.volume_id for volume in volumes if volume.spacing_mm is None]
    if without:
        raise StudyError(
            f"views.unit is mm, and {len(without)} of {len(volumes)} volumes have no spacing, such as {without[0]}: pictures "
            "have none. Set views.unit to voxels, or train on volumes."
        )
    return np.array([volume.spacing_mm for volume in volumes], dtype=np.float32)


def sides(
    share: Float[Tensor, "m"],
    extent: Float[Tensor, "m d"],
    out: Float[Tensor, "d"],
    ratio: Float[Tensor, "m d"],
    spacing: Float[Tensor, "m d"] | None,
) -> Float[Tensor, "m d"]:
    """The sides in voxels of crops with a share of each image, and the proportions of a view times a ratio.

    In voxels no side is longer than the image's. In mm, with a `spacing`, one is if the image is too short for the proportions.
    """
    if spacing is None:
        unit = _root(share * extent.prod(1) / out.prod(), len(out))
        return torch.minimum(unit[:, None] * out * ratio, extent)
    length = extent * spacing
    plain = _root(share * length.prod(1) / out.prod(), len(out))[:, None] * out
    return torch.minimum(plain * ratio, torch.maximum(plain, length)) / spacing


def turned(
    points: list[list[Float[Tensor, "..."]]],
    along: list[Float[Tensor, "..."]],
    centre: Float[Tensor, "m d"],
    scale: list[float],
    angle: Float[Tensor, "m"],
    across: Int[np.ndarray, "m"],
    spacing: Float[Tensor, "m d"] | None,
) -> list[list[Float[Tensor, "..."]]]:
    """Points of images rotated about their centre in the plane of their slices, as terms to add for each axis of the canvas.

    along: by axis the distance of pixels from the centre; angle: `(m,)`; across: `(m,)` the axis that stays fixed; spacing:
    `(m, d)`, if right angles are those of the body and not of the voxels.
    """
    dims, one, device = len(along), (-1, *[1] * len(along)), angle.device
    normals = sorted(set(across.tolist()))
    about = {axis: torch.from_numpy(across == axis).to(device) for axis in normals} if len(normals) > 1 else {}
    found = []
    for d in range(dims):
        if normals == [d]:
            found.append(points[d])
            continue
        cos = torch.where(about[d], 1.0, angle.cos()) if d in about else angle.cos()
        terms = [(cos.view(one) * along[d] + centre[:, d].view(one)) * scale[d] - 1]
        for normal in normals:
            if normal == d:
                continue
            other = 3 - d - normal
            sin = angle.sin() if not about else torch.where(about[normal], angle.sin(), 0.0)
            sin = sin if spacing is None else sin * spacing[:, other] / spacing[:, d]
            terms.append((-sin if d < other else sin).view(one) * along[other] * scale[d])
        found.append(terms)
    return found


def _root(x: Float[Tensor, "m"], degree: int) -> Float[Tensor, "m"]:
    """The root of positive numbers. Unlike that of `**`, its rounding does not depend on how many numbers there are."""
    return x.sqrt() if degree == 2 else (x.log() / degree).exp()
