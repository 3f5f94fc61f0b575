"""Views of images that keep their label: moved as a whole, rigidly, and changed in brightness, sharpness and noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared import write_prepared

from medssl.nn.changes import coarse
from medssl.nn.loading import Batch, Reader, read_samples
from medssl.nn.options import AugmentOptions
from medssl.nn.views import Crop, Views

UNCHANGED = {"zoom": (1.0, 1.0), "shift_frac": 0, "rotation_deg": 0, "window_jitter": 0}


@pytest.fixture
def samples(tmp_path: Path) -> Any:
    inputs = write_prepared(tmp_path)
    return read_samples(inputs["samples"], inputs["volumes"])


def ramps(shape: tuple[int, ...], count: int) -> list[Batch]:
    """For each axis a batch of images whose value is the place of the voxel along it, from 0 to 1 across the canvas."""
    made = []
    for axis, side in enumerate(shape):
        wide = [1] * len(shape)
        wide[axis] = side
        image = ((torch.arange(side) + 0.5) / side).view(wide).expand(shape)
        ones = torch.ones(count)
        made.append(
            Batch(
                stored=image.expand(count, 1, *shape).contiguous(),
                extent=torch.tensor([shape] * count),
                slope=ones,
                intercept=0 * ones,
                low=0 * ones[:, None],
                high=ones[:, None],
                rows=torch.arange(count),
                volume=torch.zeros(count, dtype=torch.int64),
                axis=np.full(count, 2),
                keys=np.arange(count, dtype=np.uint64),
                epoch=0,
            )
        )
    return made


@pytest.mark.parametrize("shape", [(40, 40), (40, 64), (24, 32, 20)])
@pytest.mark.parametrize("shows", ["whole", "middle"])
def test_a_turn_keeps_distances_and_the_zoom_is_one_for_all_axes(samples: Any, shape: tuple[int, ...], shows: Any) -> None:
    """Seen in its own voxels, a moved image is rotated, scaled equally along all axes, and shifted: never sheared."""
    settings = AugmentOptions(zoom=(0.3, 0.6), rotation_deg=20, shift_frac=0.1, window_jitter=0)
    size = tuple(side // 2 for side in shape)
    views = Views(settings, [Crop(1, size, shows=shows)], samples, seed=1)
    places = torch.cat([views(batch)[0] * side for batch, side in zip(ramps(shape, 6), shape, strict=True)], dim=1).double()
    ratio = 2 if shows == "whole" else 1
    zooms, angles, centres = [], [], []
    for place in places:
        steps = torch.stack([place.diff(dim=1 + axis).flatten(1).mean(1) for axis in range(len(shape))])
        zoom = float(steps.det().abs() ** (1 / len(shape))) / ratio
        torch.testing.assert_close(steps @ steps.T, (zoom * ratio) ** 2 * torch.eye(len(shape)).double(), atol=2e-3, rtol=0)
        zooms.append(zoom)
        angles.append(math.degrees(math.atan2(float(steps[0, 1]), float(steps[0, 0]))))
        centres.append((place.flatten(1).mean(1) / torch.tensor(shape) - 0.5).abs().max())
    assert 0.3 <= min(zooms) < max(zooms) <= 0.6 and max(zooms) - min(zooms) > 0.05
    assert -20 <= min(angles) < 0 < max(angles) <= 20
    assert 0.01 < max(centres) <= 0.1 + 1e-3


@pytest.mark.parametrize("shows", ["whole", "middle"])
def test_a_volume_is_turned_in_the_plane_of_its_slices_along_whatever_axis_they_lie(samples: Any, shows: Any) -> None:
    """Voxels are often longer across the slices: a turn out of their plane would shear the volume."""
    settings = AugmentOptions(zoom=(0.3, 0.6), rotation_deg=20, shift_frac=0.1, window_jitter=0)
    shape, across = (24, 32, 20), np.array([0, 1, 2, 2, 1, 0])
    views = Views(settings, [Crop(1, tuple(side // 2 for side in shape), shows=shows)], samples, seed=1)

    def places(across: np.ndarray) -> torch.Tensor:
        batches = ramps(shape, 6)
        for batch in batches:
            batch.axis = across
        return torch.cat([views(batch)[0] * side for batch, side in zip(batches, shape, strict=True)], dim=1).double()

    mixed = places(across)
    for place, normal in zip(mixed, across, strict=True):
        steps = torch.stack([place.diff(dim=1 + axis).flatten(1).mean(1) for axis in range(3)])
        zoom = float(steps.det().abs() ** (1 / 3))
        torch.testing.assert_close(steps @ steps.T, zoom**2 * torch.eye(3).double(), atol=2e-3, rtol=0)
        assert float(steps[normal, normal]) == pytest.approx(zoom, abs=1e-3), "a step across the slices stays one"
        one, other = (axis for axis in range(3) if axis != normal)
        assert abs(float(steps[one, other])) > 1e-3 * zoom
    for normal in range(3):
        alone = places(np.full(6, normal))
        torch.testing.assert_close(alone[across == normal], mixed[across == normal], atol=1e-3, rtol=0)


def test_nothing_asked_for_is_nothing_changed(samples: Any) -> None:
    batch = Reader(samples)[0, np.arange(4)]
    size = tuple(batch.extent[0].tolist())
    (view,) = Views(AugmentOptions(**UNCHANGED), [Crop(1, size, shows="whole")], samples, seed=0)(batch)
    torch.testing.assert_close(view, batch.seen, atol=1e-5, rtol=0)


def test_the_whole_image_is_seen_whatever_the_size_of_the_view(samples: Any) -> None:
    (batch,) = ramps((40, 40), 1)[:1]
    (view,) = Views(AugmentOptions(**UNCHANGED), [Crop(1, (10, 20), shows="whole")], samples, seed=0)(batch)
    torch.testing.assert_close(view[0, 0, :, 7], (torch.arange(10) + 0.5) / 10, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", "ijk")
def test_mirrors_follow_the_axes_of_the_volume_though_its_slices_lie_last(samples: Any, axis: str) -> None:
    """Slices cut along i lie last: the axes are then j, k, i."""
    settings = AugmentOptions(**UNCHANGED, flip={"CT": [axis]})
    for place, own in enumerate("jki"):
        batch = ramps((8, 8, 8), 32)[place]
        batch.axis = np.zeros(32, np.int64)
        (view,) = Views(settings, [Crop(1, (8, 8, 8), shows="whole")], samples, seed=0, slices_last=True)(batch)
        mirrored = ~torch.isclose(view, batch.seen, atol=1e-5).flatten(1).all(1)
        assert 8 < int(mirrored.sum()) < 24 if own == axis else not mirrored.any()
        torch.testing.assert_close(view[mirrored], batch.seen[mirrored].flip(2 + place), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        ("gamma_prob", {"gamma": 2.0}),
        ("noise_prob", {"noise": 0.2}),
        ("low_resolution_prob", {}),
        ("blur_prob", {"blur_sigma_frac": 0.2}),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_only_so_many_images_are_changed(samples: Any, option: str, changed: dict[str, float], share: float) -> None:
    batch = ramps((16, 16), 400)[0]
    settings = AugmentOptions(**UNCHANGED, **changed, **{option: share})
    (view,) = Views(settings, [Crop(1, (16, 16), shows="whole")], samples, seed=0)(batch)
    met = ~torch.isclose(view, batch.seen, atol=1e-4).flatten(1).all(1)
    assert abs(float(met.float().mean()) - share) < 0.1 * min(1, 4 * share) + 1e-6  # a weak change is none


def test_few_pixels_are_the_nearest_ones_and_what_lies_between_is_on_a_line() -> None:
    """By hand, for 8 pixels at a half: pixels 1, 3, 5, 7 stand at 0.5, 2.5, 4.5, 6.5 in the end."""
    line = torch.tensor([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0])
    few = line[1::2].tolist()
    expected = np.interp(np.arange(8), [0.5, 2.5, 4.5, 6.5], few)
    image = line.view(1, 1, 8, 1).expand(1, 1, 8, 3).contiguous()
    found = coarse(image, torch.tensor([0.5]), 0)
    np.testing.assert_allclose(found[0, 0, :, 1], expected, atol=1e-6)
    assert torch.equal(coarse(image, torch.tensor([1.0]), 0), image)
    assert torch.equal(coarse(image, torch.tensor([1e-9]), 0), torch.full_like(image, 9.0))  # one pixel, the middle one


def test_zooms_that_fall_are_refused() -> None:
    with pytest.raises(ValueError, match=r"augment\.zoom \[1\.2, 0\.8\]"):
        AugmentOptions(zoom=(1.2, 0.8))
