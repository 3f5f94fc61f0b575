"""Views are functions of (seed, epoch, view, sample id), in [0, 1], from the right place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from prepared import write_prepared

from medssl.core.errors import StudyError
from medssl.nn.loading import Reader, read_samples
from medssl.nn.options import ViewOptions
from medssl.nn.views import Crop, Views

STILL = {"scale": (1.0, 1.0), "ratio": 1.0, "rotation_deg": 0, "window_jitter": 0, "gamma": 1, "blur_prob": 0, "noise": 0}


@pytest.fixture
def samples(tmp_path: Path) -> Any:
    inputs = write_prepared(tmp_path, vary=True)
    return read_samples(inputs["samples"], inputs["volumes"])


def make(samples: Any, crops: list[Crop] | None = None, **options: Any) -> Views:
    return Views(ViewOptions(**options), crops or [Crop(2, (16, 16))], samples, seed=3)


def test_without_randomness_a_view_of_the_same_size_is_the_windowed_image(samples: Any) -> None:
    batch = Reader(samples)[(0, np.array([9]))]
    size = tuple(batch.extent[0].tolist())
    view = make(samples, [Crop(1, size)], **STILL)(batch)[0]
    expected = ((batch.values + 1000) / 2000).clamp(0, 1)
    assert torch.allclose(view, expected, atol=1e-5)


def test_a_sample_has_the_same_views_in_any_batch(samples: Any) -> None:
    reader, views = Reader(samples), make(samples, elastic_frac=0.05, cutout_prob=0.5)
    together = views(reader[(4, np.array([0, 9, 20]))])
    for place, row in enumerate([0, 9, 20]):
        alone = views(reader[(4, np.array([row]))])
        for a, b in zip(together, alone, strict=True):
            assert torch.allclose(a[place], b[0], atol=2e-5)


def test_views_differ_between_epochs_views_and_seeds_and_repeat_otherwise(samples: Any) -> None:
    reader, views = Reader(samples), make(samples)
    first, again, later = (views(reader[(epoch, np.array([5]))]) for epoch in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.allclose(first[0], first[1], atol=1e-2)
    assert not torch.allclose(first[0], later[0], atol=1e-2)


def test_planes_of_different_size_share_a_batch_and_padding_never_shows(samples: Any) -> None:
    batch = Reader(samples)[(0, np.array([0, 20]))]
    assert batch.stored.shape[2:] == (28, 22) and batch.extent.tolist() == [[24, 20], [28, 22]]
    batch.stored[0, 0, 24:] = 3000
    batch.stored[0, 0, :, 20:] = 3000
    bright = make(samples, [Crop(4, (32, 32))], **(STILL | {"scale": (0.5, 1.0)}))(batch)
    clean = make(samples, [Crop(4, (32, 32))], **(STILL | {"scale": (0.5, 1.0)}))(Reader(samples)[(0, np.array([0, 20]))])
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert all(torch.allclose(a[inner], b[inner], atol=0.3) for a, b in zip(bright, clean, strict=True))


def test_turning_shows_the_low_end_of_the_window_beyond_the_image(samples: Any) -> None:
    batch = Reader(samples)[(0, np.array([0]))]
    batch.stored[:] = 1000
    view = make(samples, [Crop(1, (48, 48))], **(STILL | {"rotation_deg": 45.0}))(batch)[0]
    assert view.max() == 1 and view.min() == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_a_turned_view_is_that_of_affine_grid(samples: Any, dims: int) -> None:
    batch = Reader(samples)[(0, np.arange(12))]
    height, width = 28, 22
    i, j = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    image = 0.5 + 0.2 * torch.sin(i / 4 + 1) + 0.2 * torch.cos(j / 3 + i / 9)  # neither its mirror image nor its transpose
    size = (height, width) if dims == 2 else (height, width, 3)
    stored = (image * 2000 - 1000).view(1, 1, height, width, *[1] * (dims - 2)).expand(12, 1, *size)
    batch.stored, batch.extent = stored.clone(), torch.tensor([size] * 12)
    (views,) = make(samples, [Crop(1, size)], **(STILL | {"rotation_deg": 40.0}))(batch)
    angles = torch.linspace(-math.radians(40), math.radians(40), 1601)
    cos, sin, none = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # affine_grid counts from −1 to 1 along each side, x first: a turn in pixels needs the ratio of the sides
    rows = [cos, sin * height / width, none], [-sin * width / height, cos, none]
    grid = F.affine_grid(torch.stack([torch.stack(row, 1) for row in rows], 1), [1601, 1, height, width], align_corners=False)
    turned = F.grid_sample(image.expand(1601, 1, height, width), grid, align_corners=False)[:, 0]
    found = []
    for view in views[:, 0]:
        planes = view[..., None] if dims == 2 else view
        assert torch.allclose(planes, planes[..., :1], atol=1e-5), "a turn about the third axis leaves its planes alike"
        apart = (turned - planes[..., 0]).abs().amax((1, 2))
        assert apart.min() < 0.02
        found.append(float(angles[apart.argmin()]))
    assert min(found) < -0.2 and max(found) > 0.2


def cropped_or_padded(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of a plane in pixels as they are, what is missing 0: as crop_or_pad_slice_to_size of arXiv 2006.10511."""
    out = np.zeros(size, plane.dtype)
    here, there = [], []
    for have, want in zip(plane.shape, size, strict=True):
        cut, gap = max(have - want, 0) // 2, max(want - have, 0) // 2
        here.append(slice(gap, gap + min(have, want)))
        there.append(slice(cut, cut + min(have, want)))
    out[tuple(here)] = plane[tuple(there)]
    return out


@pytest.mark.parametrize("size", [(28, 22), (16, 16), (40, 40), (17, 31), (31, 15)])
@pytest.mark.parametrize("varies", ["nothing", "intensity"])
def test_an_image_that_is_not_stretched_is_cropped_or_padded_about_its_middle(samples: Any, size: Any, varies: Any) -> None:
    batch = Reader(samples)[(0, np.array([0, 20]))]  # 24 × 20 and 28 × 22 pixels
    (views,) = make(samples, [Crop(1, size, varies=varies)], **(STILL | {"fit": "crop"}))(batch)
    plain = ((batch.values + 1000) / 2000).clamp(0, 1)[:, 0].numpy()
    for view, plane, extent in zip(views[:, 0].numpy(), plain, batch.extent.tolist(), strict=True):
        assert np.allclose(view, cropped_or_padded(plane[: extent[0], : extent[1]], size), atol=1e-5)


def test_parts_of_an_image_that_is_not_stretched_are_parts_of_its_middle(samples: Any) -> None:
    """A smaller view is a part of the same frame: a box of 8² of the 16² that the largest view shows."""
    crops, starts = [Crop(1, (16, 16), varies="nothing"), Crop(1, (8, 8), (0.25, 0.25))], []
    along = (torch.arange(28.0) + 0.5) / 100 * 2000 - 1000
    for epoch in range(30):
        batch = Reader(samples)[(epoch, np.arange(24))]
        batch.stored, batch.extent[:] = along[:, None].repeat(24, 1, 1, 12), torch.tensor([28, 12])
        row = make(samples, crops, **(STILL | {"fit": "crop"}))(batch)[1][:, 0].amax(2) * 100 - 0.5
        assert torch.allclose(row[:, 1:] - row[:, :-1], torch.ones(24, 7), atol=1e-3), "pixels as they are"
        starts.append(row[:, 0])
    first = torch.cat(starts)  # rows 6 to 22 of 28 are the frame
    assert 5.99 < float(first.min()) < 6.2 and 13.8 < float(first.max()) < 14.01


@pytest.mark.parametrize("axis", [0, 1])
def test_crops_reach_both_edges(samples: Any, axis: int) -> None:
    views, starts, ends = make(samples, [Crop(1, (8, 8), (0.25, 0.25))], **STILL), [], []
    extent, side = (28, 22), (0.25 * 28 * 22) ** 0.5
    along = (torch.arange(float(extent[axis])) + 0.5) / extent[axis] * 2000 - 1000
    for epoch in range(30):
        batch = Reader(samples)[(epoch, np.arange(24))]
        batch.stored = along.view(-1, *[1] * (1 - axis)).expand(extent).repeat(24, 1, 1, 1)
        batch.extent[:] = torch.tensor(extent)
        (view,) = views(batch)
        shown = view[:, 0].select(2 - axis, 0) * extent[axis]
        starts.append(shown[:, 0] - side / 16)  # from the middle of the first pixel to its edge
        ends.append(shown[:, -1] + side / 16)
    start, end = torch.cat(starts), torch.cat(ends)
    room = extent[axis] - side
    assert start.min() > -0.01 and end.max() < extent[axis] + 0.01
    assert start.min() < 0.02 * room and end.max() > extent[axis] - 0.02 * room
    assert abs(float(start.mean()) - room / 2) < 0.05 * room


def windows_seen(samples: Any, jitter: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Middles and widths `(720,)` of the windows of views of an image of −500 and 500 HU, window −1000 to 1000."""
    views, found = make(samples, [Crop(1, (4, 4))], **(STILL | {"window_jitter": jitter})), []
    for epoch in range(30):
        batch = Reader(samples)[(epoch, np.arange(24))]
        batch.stored = torch.tensor([-500.0, -500.0, 500.0, 500.0]).view(4, 1).expand(24, 1, 4, 4).clone()
        batch.extent[:] = 4
        (view,) = views(batch)
        found.append(view[:, 0, [0, -1], 0])
    dark, bright = torch.cat(found).double().unbind(1)
    width = 1000 / (bright - dark)
    return -500 + (0.5 - dark) * width, width


def test_the_jitter_of_the_window_is_unbiased(samples: Any) -> None:
    middle, width = windows_seen(samples, 0.2)
    for found, true, most in ((middle, 0.0, 200.0), (width, 2000.0, 400.0)):
        assert float(found.min()) > true - 1.01 * most and float(found.max()) < true + 1.01 * most
        assert float(found.min()) < true - 0.95 * most and float(found.max()) > true + 0.95 * most
        # the mean of 720 draws is within four of its standard errors
        assert abs(float(found.mean()) - true) < 4 * most / (3 * 720) ** 0.5


def light_of(samples: Any, **options: Any) -> np.ndarray:
    """Factor about the mean, and shift, of 720 views of images in the middle of the window: `(720, 2)`."""
    found = []
    for epoch in range(30):
        batch = Reader(samples)[(epoch, np.arange(24))]
        batch.stored = torch.tensor([-100.0, -50.0, 20.0, 90.0]).view(4, 1).expand(24, 1, 4, 4).clone()
        batch.extent[:] = 4
        plain = ((batch.values + 1000) / 2000).double().numpy()[:, 0]
        (views,) = make(samples, [Crop(1, (4, 4))], **(STILL | options))(batch)
        for image, view in zip(plain, views[:, 0].double().numpy(), strict=True):
            slope, start = np.polyfit(image.ravel(), view.ravel(), 1)
            assert np.allclose(slope * image + start, view, atol=1e-5)
            found.append((slope, start - (1 - slope) * image.mean()))
    return np.array(found)


def test_contrast_turns_about_the_mean_and_brightness_adds_to_it(samples: Any) -> None:
    """As the released code of arXiv 2006.10511: brightness ±0.3, and a factor of 0.7 to 1.3 about the mean of the image."""
    factor, shift = light_of(samples, contrast=0.3, brightness=0.3).T
    for found, middle in ((factor, 1.0), (shift, 0.0)):
        assert middle - 0.3001 < found.min() < middle - 0.285 and middle + 0.285 < found.max() < middle + 0.3001
        assert abs(found.mean() - middle) < 4 * 0.3 / (3 * 720) ** 0.5  # four standard errors
    assert abs(np.corrcoef(factor, shift)[0, 1]) < 4 / 720**0.5, "drawn apart"
    assert np.allclose(light_of(samples, brightness=0.3)[:, 0], 1, atol=1e-4)
    assert np.allclose(light_of(samples, contrast=0.3)[:, 1], 0, atol=1e-4)


def test_a_view_becomes_as_bright_as_the_study_lets_it(samples: Any) -> None:
    batch = Reader(samples)[(0, np.arange(24))]
    batch.stored = torch.full((24, 1, 4, 4), 1000.0)
    batch.extent[:] = 4
    for brightest in (1.0, 1.2):
        options = STILL | {"brightness": 0.3, "brightest": brightest, "noise": 0.01}
        (view,) = make(samples, [Crop(1, (4, 4))], **options)(batch)
        assert view.max() == brightest and view.min() < 0.8


def test_a_study_without_light_has_the_views_that_it_had(samples: Any) -> None:
    """What else is drawn does not depend on whether contrast and brightness vary."""
    batch = Reader(samples)[(0, np.array([3]))]
    varied = {"window_jitter": 0.0, "gamma": 1.0, "noise": 0.0, "elastic_frac": 0.05, "brightest": 9.0}
    (one,), (other,) = (make(samples, [Crop(1, (16, 16))], **varied, contrast=c)(batch) for c in (0.0, 0.3))
    a, b = one.double().flatten().numpy(), other.double().flatten().numpy()
    inside = b > 0
    slope, start = np.polyfit(a[inside], b[inside], 1)
    assert np.allclose(slope * a[inside] + start, b[inside], atol=1e-5)


def test_gamma_darkens_as_often_as_it_brightens(samples: Any) -> None:
    views, exponents = make(samples, [Crop(1, (4, 4))], **(STILL | {"gamma": 2.0})), []
    for epoch in range(30):
        batch = Reader(samples)[(epoch, np.arange(24))]
        batch.stored, batch.extent[:] = torch.zeros(24, 1, 4, 4), 4
        (view,) = views(batch)
        exponents.append(-view[:, 0, 0, 0].double().log2())  # of one half
    octaves = torch.cat(exponents).log2()
    assert octaves.min() > -1.001 and octaves.max() < 1.001 and octaves.min() < -0.95 and octaves.max() > 0.95
    assert abs(float(octaves.mean())) < 4 / (3 * 720) ** 0.5


def test_cut_out_boxes_have_their_size_and_reach_both_edges(samples: Any) -> None:
    views, boxes = make(samples, [Crop(1, (16, 16))], **(STILL | {"cutout_prob": 1.0, "cutout_frac": 0.25})), []
    for epoch in range(10):
        batch = Reader(samples)[(epoch, np.arange(24))]
        batch.stored, batch.extent[:] = torch.full((24, 1, 16, 16), 900.0), 16
        (view,) = views(batch)
        boxes.append(view[:, 0] == 0)
    box = torch.cat(boxes)
    assert (box.sum((1, 2)) == 16).all(), "a quarter of each side"
    for axis in (1, 2):
        sides = box.any(axis)
        assert (sides.sum(1) == 4).all() and sides.any(0).all()


def test_flips_happen_only_where_the_study_allows_them(samples: Any) -> None:
    batch = Reader(samples)[(0, np.arange(24))]
    plain = make(samples, [Crop(1, (20, 20))], **STILL)(batch)[0]
    other = make(samples, [Crop(1, (20, 20))], **(STILL | {"flip": {"MR": ["i", "j"]}}))(batch)[0]
    assert torch.equal(plain, other)
    flipped = make(samples, [Crop(1, (20, 20))], **(STILL | {"flip": {"CT": ["j"]}}))(batch)[0]
    mirrored = [torch.allclose(a, b.flip(2), atol=1e-5) for a, b in zip(plain, flipped, strict=True)]
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, flipped, strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True)) and 4 < sum(mirrored) < 20


def test_crops_show_the_drawn_share_of_the_image(samples: Any) -> None:
    batch = Reader(samples)[(0, np.arange(24))]
    i = torch.arange(28.0)[:, None].expand(28, 22)
    batch.stored = (i / 28 * 2000 - 1000).repeat(24, 1, 1, 1)
    batch.extent[:] = torch.tensor([28, 22])
    view = make(samples, [Crop(1, (28, 28), (0.25, 0.25))], **STILL)(batch)[0]
    shown = (view[:, 0, -1, 0] - view[:, 0, 0, 0]) * 28 / (27 / 28) * 28 / 28
    side = (0.25 * 28 * 22) ** 0.5
    assert torch.allclose(shown, torch.full((24,), side), atol=1.5)


def test_a_crop_may_vary_in_intensity_alone_or_not_at_all(samples: Any) -> None:
    batch = Reader(samples)[(0, np.array([0, 9, 20]))]
    moving = STILL | {"scale": (0.3, 0.6), "ratio": 1.5, "rotation_deg": 30, "elastic_frac": 0.1, "flip": {"CT": ["i", "j"]}}
    one, other = make(samples, [Crop(2, (16, 16), varies="intensity")], **moving)(batch)
    (itself,) = make(samples, [Crop(1, (16, 16), varies="nothing")])(batch)
    assert torch.equal(one, other) and torch.equal(one, itself)
    square = Reader(samples)[(0, np.array([0]))]
    square.stored, square.extent = square.stored[..., :20, :], torch.tensor([[20, 20]])
    (seen,) = make(samples, [Crop(1, (20, 20), varies="intensity")], **moving)(square)
    assert torch.allclose(seen, ((square.values + 1000) / 2000).clamp(0, 1), atol=1e-5)
    bright, dark = make(samples, [Crop(2, (16, 16), varies="intensity")], **(moving | {"gamma": 3.0}))(batch)
    exponent = bright.double().log() / dark.double().log()
    inside = (itself > 0.1) & (itself < 0.9)
    for image, shown in zip(exponent, inside, strict=True):
        assert image[shown].std() < 1e-3 and abs(float(image[shown].mean()) - 1) > 1e-2


@pytest.mark.parametrize("varies", ["nothing", "intensity"])
def test_a_whole_view_of_an_image_that_is_not_square_shows_its_ends(samples: Any, varies: Any) -> None:
    batch = Reader(samples)[(0, np.array([0]))]
    width = batch.stored.shape[3]
    batch.stored = (torch.arange(float(width)) / width * 2000 - 1000).expand(1, 1, width // 2, width).clone()
    batch.extent = torch.tensor([[width // 2, width]])
    (view,) = make(samples, [Crop(1, (8, 8), varies=varies)], **STILL)(batch)
    assert float(view[0, 0, :, 0].max()) < 0.1 and float(view[0, 0, :, -1].min()) > 0.85


def test_a_crop_may_leave_noise_out(samples: Any) -> None:
    batch = Reader(samples)[(0, np.arange(6))]
    noisy = STILL | {"noise": 0.2}
    (silent,), (loud,) = (make(samples, [Crop(1, (16, 16), noise=noise)], **noisy)(batch) for noise in (False, True))
    (still,) = make(samples, [Crop(1, (16, 16))], **STILL)(batch)
    assert torch.equal(silent, still) and not torch.equal(loud, still)


def test_three_dimensional_views_of_patches(samples: Any) -> None:
    reader = Reader(samples, patch=(20, 18, 8))
    views = make(samples, [Crop(2, (12, 12, 6)), Crop(1, (8, 8, 4), (0.1, 0.2))], elastic_frac=0.05, cutout_prob=1.0)
    made = views(reader[(0, np.array([1, 10]))])
    assert [tuple(v.shape) for v in made] == [(2, 1, 12, 12, 6)] * 2 + [(2, 1, 8, 8, 4)]
    assert all(bool(v.isfinite().all()) and v.min() >= 0 and v.max() <= 1 for v in made)


def test_views_of_a_volume_have_the_same_bits_in_any_batch(samples: Any) -> None:
    """Their places, too: some functions of torch round the last numbers of a tensor in another way than the first ones."""
    reader, views = Reader(samples, patch=(16, 16, 12)), make(samples, [Crop(2, (8, 8, 8))], blur_prob=0)
    rows = np.arange(19)
    together = views(reader[(3, rows)])
    for count in (1, 2, 5):
        parts = [views(reader[(3, rows[first : first + count])]) for first in range(0, len(rows), count)]
        assert all(
            torch.equal(torch.cat(of_one), whole) for of_one, whole in zip(zip(*parts, strict=True), together, strict=True)
        )


def test_several_windows_become_channels(tmp_path: Path) -> None:
    inputs = write_prepared(tmp_path, windows=2)
    samples = read_samples(inputs["samples"], inputs["volumes"])
    batch = Reader(samples)[(0, np.array([0, 1]))]
    view = Views(ViewOptions(**STILL), [Crop(1, (24, 20))], samples, seed=0)(batch)[0]
    assert view.shape == (2, 2, 24, 20)
    assert torch.allclose(view[:, 1:], ((batch.values + 160) / 400).clamp(0, 1), atol=1e-4)


def test_a_size_of_the_wrong_rank_is_refused(samples: Any) -> None:
    with pytest.raises(StudyError, match="spatial_dims"):
        make(samples, [Crop(1, (8, 8, 8))])(Reader(samples)[(0, np.array([0]))])


def test_a_batch_is_not_changed_and_is_the_same_in_parts_of_any_size(samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor some images at a time are worked on: whichever they are, each is blurred, bent and cut as it alone would."""
    batch = Reader(samples)[(2, np.arange(24))]
    batch.stored = batch.stored.float()
    before = batch.stored.clone()
    varied = {"elastic_frac": 0.05, "cutout_prob": 0.5, "low_resolution_prob": 0.5, "gamma_prob": 0.5, "noise_prob": 0.5}
    views = make(samples, [Crop(2, (40, 36)), Crop(3, (12, 12), (0.1, 0.3))], **varied, blur_sigma_frac=0.05)
    monkeypatch.setattr("medssl.nn.views.CACHED_NUMBERS", 1 << 30)
    whole = views(batch)
    assert torch.equal(batch.stored, before)
    for numbers in (1, 5 * 2 * 40 * 36):
        monkeypatch.setattr("medssl.nn.views.CACHED_NUMBERS", numbers)
        parts = views(batch)
        assert len(parts) == 5 and all(torch.allclose(a, b, atol=2e-5) for a, b in zip(parts, whole, strict=True))
