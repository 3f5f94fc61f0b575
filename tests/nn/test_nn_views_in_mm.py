"""Crops in millimetres: as much of the body along every axis of a view, whatever the voxels."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared import made_volume
from pydantic import ValidationError

from medssl.core.errors import StudyError
from medssl.core.rng import ids_to_keys
from medssl.nn.loading import Reader, Samples, patch_in_mm
from medssl.nn.options import ViewOptions
from medssl.nn.resident import Resident
from medssl.nn.views import Crop, Views
from medssl.pretrain.multi_crop import multi_crop

STILL = {"ratio": 1.0, "rotation_deg": 0, "window_jitter": 0, "gamma": 1, "blur_prob": 0, "noise": 0}
LENGTH_MM = (90.0, 70.0, 120.0)
HIGH_MM = 200.0


def ramps(folder: Path, spacing: tuple[float, ...], length_mm: tuple[float, ...] = LENGTH_MM, axis: int = 2) -> Samples:
    """Three volumes of one length; in volume `a` a value is the place along axis `a` in tenths of a mm. One slice of each."""
    shape: Any = tuple(round(length / step) for length, step in zip(length_mm, spacing, strict=True))
    volumes = []
    for a in range(3):
        along = (np.arange(shape[a]) + 0.5) * spacing[a] * 10
        place = folder / f"ramp-{a}.npy"
        np.save(place, np.broadcast_to(np.expand_dims(along, [d for d in range(3) if d != a]), shape).astype(np.float32))
        volumes.append(made_volume(f"v-{a}", place, shape, spacing_mm=spacing, low=(0.0,), high=(10 * HIGH_MM,)))
    rows, middle = np.arange(3), np.full(3, shape[axis] // 2)
    return Samples(
        ("a", "b", "c"),
        tuple(volumes),
        rows,
        np.full(3, axis),
        middle,
        middle.astype(np.float32),
        (None,) * 3,
        ids_to_keys("abc"),
    )


def whole(samples: Samples) -> Any:
    """The volumes, uncut."""
    return Reader(samples, patch=(400, 400, 400))[(0, np.arange(3))]


def slopes(view: torch.Tensor) -> torch.Tensor:
    """The mean change of place per pixel along each axis of a view `(*size)` in mm, inside the image, `(d,)`."""
    mm = view * HIGH_MM
    inside = mm > 0
    for d in range(mm.ndim):  # no pixel at a border, which is mixed with what lies beyond
        inside = inside & inside.roll(1, d) & inside.roll(-1, d)
        edge = [slice(None)] * mm.ndim
        edge[d] = slice(1, -1)
        whole = torch.zeros_like(inside)
        whole[tuple(edge)] = True
        inside = inside & whole
    changes = [((mm.roll(-1, d) - mm.roll(1, d)) / 2)[inside].median() for d in range(mm.ndim)]
    return torch.stack(changes)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 5.0), (0.7, 2.0, 3.0)])
@pytest.mark.parametrize("size", [(16, 16, 16), (16, 24, 8)])
def test_a_pixel_is_as_long_along_every_axis_in_large_and_small_crops(
    tmp_path: Path, spacing: tuple[float, float, float], size: tuple[int, int, int]
) -> None:
    samples = ramps(tmp_path, spacing)
    crops = multi_crop(size, (0.4, 0.4), 2, 0.5, (0.1, 0.1), 1)
    views = Views(ViewOptions(unit="mm", **STILL), crops, samples, seed=1)(whole(samples))
    for number, (view, share) in enumerate(zip(views, (0.4, 0.4, 0.1, 0.1), strict=True)):
        wanted = (share * np.prod(LENGTH_MM) / np.prod(view.shape[2:])) ** (1 / 3)
        for a in range(3):
            expected = [wanted if axis == a else 0.0 for axis in range(3)]
            assert slopes(view[a, 0]).tolist() == pytest.approx(expected, rel=0.02, abs=1e-3), (number, a)


def test_a_ball_is_round_in_mm_and_flat_in_voxels(tmp_path: Path) -> None:
    """In voxels of 1 × 1 × 4 mm a cube of voxels is four times as long along the slices."""
    samples, radius = ramps(tmp_path, (1.0, 1.0, 4.0)), 12.0
    i, j, k = np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip((90, 70, 30), (1, 1, 4), strict=True)], indexing="ij")
    ball = ((i - 45) ** 2 + (j - 35) ** 2 + (k - 60) ** 2 < radius**2) * 2000
    np.save(tmp_path / "ball.npy", ball.astype(np.int16))
    of_ball = replace(samples.volumes[0], array=tmp_path / "ball.npy")
    samples = replace(samples, volumes=(of_ball, of_ball, of_ball))
    widths = {}
    for unit in ("mm", "voxels"):
        crop = Crop(8, (32, 32, 32), (0.5, 0.5))
        made = Views(ViewOptions(unit=unit, **STILL), [crop], samples, seed=0)(whole(samples))
        found = []
        for view in torch.stack(made)[:, :, 0].flatten(0, 1):
            at = (view > 0.5).nonzero().float()
            if len(at) and (at.amin(0) > 1).all() and (at.amax(0) < 30).all():  # the whole ball
                found.append(at.std(0))
        widths[unit] = torch.stack(found).mean(0)
    assert (widths["mm"] / widths["mm"].mean()).tolist() == pytest.approx([1, 1, 1], abs=0.04)
    assert widths["voxels"][0] / widths["voxels"][2] > 1.5


def test_an_axis_shorter_than_the_crop_is_shown_whole_and_the_rest_is_empty(tmp_path: Path) -> None:
    spacing, thin = (1.0, 1.0, 5.0), (90.0, 90.0, 20.0)
    samples = ramps(tmp_path, spacing, thin)
    views = Views(ViewOptions(unit="mm", scale=(0.6, 0.6), **STILL), [Crop(4, (24, 24, 24))], samples, seed=2)(whole(samples))
    wanted = (0.6 * np.prod(thin)) ** (1 / 3) / 24
    for view in views:
        for a in range(2):
            expected = [wanted if axis == a else 0.0 for axis in range(3)]
            assert slopes(view[a, 0]).tolist() == pytest.approx(expected, rel=0.02, abs=1e-3)
        along = view[2, 0].amax((0, 1)) * HIGH_MM
        assert 15 < along.max() <= 17.5, "the last slice is shown, whose centre is at 17.5 mm"
        assert 20 / wanted - 2 <= (along > 0).sum() <= 25 / wanted + 2, "and all others: half a slice is blurred at each end"


@pytest.mark.parametrize("dims", [2, 3])
def test_right_angles_of_the_body_stay_right_in_a_turned_view(tmp_path: Path, dims: int) -> None:
    """Coronal slices of 1 × 4 mm: the places along both axes rise as fast, in perpendicular directions."""
    samples = ramps(tmp_path, (1.0, 2.0, 4.0), axis=1)
    samples = replace(samples, keys=samples.keys[[0, 0, 0]])  # all views are turned alike
    reader = Reader(samples) if dims == 2 else Reader(samples, patch=(60, 60, 60), in_mm=True, centred=True)
    options = ViewOptions(unit="mm", scale=(0.3, 0.3), **STILL | {"rotation_deg": 40.0})
    angles = []
    for epoch in range(4):
        (views,) = Views(options, [Crop(1, (32,) * dims)], samples, seed=0)(reader[(epoch, np.arange(3))])
        first, other = slopes(views[0, 0]), slopes(views[2, 0])
        assert float(first.norm() / other.norm()) == pytest.approx(1, abs=0.02)
        assert float(first @ other / first.norm() ** 2) == pytest.approx(0, abs=0.02)
        angles.append(abs(float(torch.atan2(first[-1], first[0]))))
    assert max(angles) > 0.2


def test_on_voxels_without_a_long_side_both_units_are_the_same(tmp_path: Path) -> None:
    samples = ramps(tmp_path, (2.0, 2.0, 2.0), (64.0, 64.0, 64.0))
    batch = Reader(samples)[(0, np.arange(3))]
    crops = [Crop(2, (16, 16), (0.3, 1.0))]
    one, other = (Views(ViewOptions(unit=unit, rotation_deg=30), crops, samples, seed=4)(batch) for unit in ("voxels", "mm"))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 5.0), (0.7, 2.0, 3.0), (3.0, 1.0, 2.0)])
def test_a_patch_is_as_long_along_every_axis_but_for_less_than_a_voxel(tmp_path: Path, spacing: Any) -> None:
    patch = patch_in_mm((24, 24, 24), spacing)
    assert all(-1e-5 <= n * step - 24 * min(spacing) < step + 1e-4 for n, step in zip(patch, spacing, strict=True))
    samples = ramps(tmp_path, spacing)
    for in_mm, side in itertools.product((False, True), (24, 400)):
        reader = Reader(samples, patch=(side,) * 3, in_mm=in_mm)
        wanted = patch_in_mm((side,) * 3, spacing) if in_mm else (side,) * 3
        shape = tuple(min(have, want) for have, want in zip(samples.volumes[0].shape, wanted, strict=True))
        batch, stored = reader[(0, np.arange(3))], Resident(reader, torch.device("cpu"))[(0, np.arange(3))]
        assert batch.extent.tolist() == [list(shape)] * 3
        assert torch.equal(batch.stored, stored.stored)


def test_images_without_spacing_and_pixels_as_they_are_have_no_mm(tmp_path: Path) -> None:
    samples = ramps(tmp_path, (1.0, 1.0, 1.0))
    flat = replace(samples, volumes=(samples.volumes[0], replace(samples.volumes[1], spacing_mm=None), samples.volumes[2]))
    with pytest.raises(StudyError, match=r"views\.unit is mm, and 1 of 3 volumes have no spacing, such as v-1"):
        Views(ViewOptions(unit="mm"), [Crop(1, (8, 8))], flat, seed=0)
    with pytest.raises(ValidationError, match=r"views\.fit: crop shows pixels as they are"):
        ViewOptions(unit="mm", fit="crop")
