"""Training patches and images: parts of the scans, moved with their masks, the same wherever they lie."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning import NARROW, one_scan, scan, write_image_source

from medssl.core.errors import StudyError
from medssl.finetune import training
from medssl.finetune.images import CaseImages
from medssl.finetune.patches import Patches
from medssl.finetune.recipe import Recipe
from medssl.finetune.scans import Scan, places_of
from medssl.finetune.task import NetworkInput, Setup
from medssl.finetune.tasks.segmentation import Segmentation
from medssl.nn.backbone import build
from medssl.nn.loading import read_samples
from medssl.nn.options import AugmentOptions
from medssl.nn.views import Crop, Views, margins

CPU = torch.device("cpu")
NOTHING = np.zeros(0, np.int64)
MOST = AugmentOptions(
    zoom=(0.7, 1.4), rotation_deg=40, shift_frac=0.2, elastic_frac=0.05, window_jitter=0, flip={"CT": ["i", "j", "k"]}
)


def patches_of(
    scans: list[Scan], size: tuple[int, int, int], margin: tuple[int, int, int] = (0, 0, 0), **changed: Any
) -> Patches:
    given = {"count": 8, "foreground_frac": 0.5, "seed": 0} | changed
    return Patches(scans, [places_of(one, [1, 3], 0) for one in scans], [0, 1, 3], size, margin, **given)


def test_patches_are_parts_of_the_scan_and_zeros_outside() -> None:
    whole = scan()
    index = np.array([0, 1, 0, 2])
    for size in ((8, 8, 8), (32, 8, 16)):  # inside, and larger than the scan's 20 × 18 × 12
        patches = patches_of([whole], size)
        batch, drawn = patches[3, NOTHING], patches.drawn(3)
        seen, classes = batch.seen.numpy(), batch.mask.numpy()
        for number, (_, start) in enumerate(drawn):
            room = np.array(whole.shape) - size
            assert ((start >= 0) & (start <= room) | (room < 0)).all(), "it hangs over the edge of a scan that has room for it"
            places = itertools.product(*(range(0, side, 3) for side in size))
            for place in places:
                at = start + place
                inside = (at >= 0).all() and (at < whole.shape).all()
                value = np.clip(whole.image[tuple(at)] / 200, 0, 1) if inside else 0.0
                assert seen[(number, 0, *place)] == pytest.approx(value, abs=1e-6)
                assert classes[(number, 0, *place)] == (index[whole.mask[tuple(at)]] if inside else 0)
    assert all(drawn[n].start[0] == -6 for n in range(8)), "a scan that is smaller than the patch lies in its middle"


def test_half_of_the_patches_hold_foreground_and_a_step_is_itself_again() -> None:
    patches = patches_of([scan(n) for n in range(3)], (4, 4, 1), count=64)
    masks = patches[0, NOTHING].mask
    near = masks.flatten(1).any(1)
    assert near[:32].float().mean() > 0.7 > near[32:].float().mean()
    assert torch.equal(masks, patches[0, NOTHING].mask) and not torch.equal(masks, patches[1, NOTHING].mask)


def test_a_patch_with_a_margin_is_the_patch_and_what_lies_beside_it() -> None:
    scans = [scan(shape=(20, 18, 12))]
    plain, larger = patches_of(scans, (8, 6, 1)), patches_of(scans, (8, 6, 1), (4, 5, 0))
    for step in range(5):
        assert torch.equal(larger[step, NOTHING].stored[..., 4:-4, 5:-5], plain[step, NOTHING].stored)
        assert torch.equal(larger[step, NOTHING].mask[..., 4:-4, 5:-5], plain[step, NOTHING].mask)


@pytest.mark.parametrize("size", [(8, 6, 1), (24, 8, 6)])
def test_patches_of_scans_on_the_device_are_those_cut_from_disk_and_those_of_workers(size: tuple[int, int, int]) -> None:
    scans = [scan(n, shape=(20 + n, 18 - n, 12)) for n in range(3)]
    patches = patches_of(scans, size, (3, 2, 0))
    cut = [
        list(patches.batches(range(4), CPU, data=data, workers=workers))
        for data, workers in (("loader", 0), ("loader", 2), ("device", 0))
    ]
    for plain, *others in zip(*cut, strict=True):
        for other in others:
            for name, value in vars(plain).items():
                same = torch.equal if isinstance(value, torch.Tensor) else np.array_equal
                assert same(value, getattr(other, name)), name


@pytest.mark.parametrize(("size", "across"), [((16, 10), 2), ((10, 16), 2), ((12, 8, 6), 2), ((6, 8, 12), 0), ((8, 6, 10), 1)])
def test_a_mask_moves_with_its_image_and_no_border_of_a_patch_is_empty(size: tuple[int, ...], across: int) -> None:
    """Where the image is the mask, it is so after the move too, but on the edge; a patch inside a scan is full of it."""
    room = margins(size, MOST, {across})
    shape = (90, 80, 70)[: len(size)] + (1,) * (3 - len(size))
    coarse = np.random.default_rng(0).integers(0, 2, tuple(side // 8 + 1 for side in shape))
    mask = np.kron(coarse, np.ones((8, 8, 8)))[tuple(slice(0, side) for side in shape)].astype(np.uint8)
    whole, more = (*size, 1)[:3], (*room, 0)[:3]
    for truth in (mask, np.ones(shape, np.uint8)):
        one = Scan(scan().volume, (200 * truth).astype(np.int16), truth, np.eye(4), across)
        patches = Patches([one], [places_of(one, [1], 0)], [0, 1], whole, more, count=64, foreground_frac=0.0, seed=0)
        views = Views(MOST, [Crop(1, size, shows="middle")], patches, seed=0, slices_last=across == 2)
        for batch in patches.batches(range(3), CPU):
            within = [
                all((start >= 0).tolist()) and all((start + patches.canvas <= np.array(shape)).tolist())
                for _, start in patches.drawn(batch.epoch)
            ]
            images, classes = views.labelled(batch)
            assert images.shape == (64, 1, *size) and classes.shape == (64, *size) and sum(within) > 5
            if truth.all():
                assert classes[within].all() and images[within].min() > 1 - 1e-4
            else:
                assert ((images[:, 0] > 0.5) == classes.bool()).float().mean() > 0.97
                assert 0.2 < classes[within].float().mean() < 0.8


def test_a_segmentation_learns_from_patches_without_empty_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a scan that is bright everywhere, a dark border can only come from beyond the scan."""
    seen: list[torch.Tensor] = []

    def run(fit: training.Fit) -> training.Trained:
        seen.extend(images for images, _ in fit.batches(range(4)))
        return training.Trained(1, 0.0, [])

    monkeypatch.setattr(training.Fit, "run", run)
    setup = Setup("full", build("resnet18", NARROW, 2, 1), np.array([0]), Recipe(max_steps=1, batch_size=32), 0, CPU)
    Segmentation().fit(one_scan(np.full((160, 160, 2), 1.5, np.float32)), setup)
    darkest = torch.cat(seen).amin(dim=(1, 2, 3))
    assert (darkest > 0.3).float().mean() > 0.7 and len(darkest) == 128


def test_what_is_not_moved_is_the_middle_of_what_was_read() -> None:
    patches = patches_of([scan(n) for n in range(2)], (9, 6, 1), (4, 5, 0))
    batch = patches[0, NOTHING]
    images, classes = Views(AugmentOptions.still(), [Crop(1, (9, 6), shows="middle")], patches, seed=0).labelled(batch)
    torch.testing.assert_close(images, batch.seen[..., 4:-4, 5:-5], rtol=1e-5, atol=1e-5)
    assert torch.equal(classes, batch.mask[:, 0, 4:-4, 5:-5].long())


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_images_of_cases_are_the_same_wherever_they_lie(spatial_dims: int, tmp_path: Path) -> None:
    folder = write_image_source(tmp_path / "a", {"train": 9})
    samples = read_samples([folder / "samples.parquet"], [folder / "volumes.tsv"], split=None)
    size = (12, 10, 6)[:spatial_dims]
    rows = np.arange(9) if spatial_dims == 2 else np.zeros(2, np.int64)
    expected = NetworkInput(spatial_dims, 1, size, True)
    read, kept = CaseImages(samples, rows, expected), CaseImages(samples, rows, expected).keep()
    requests = [(step, np.array([1, 0, 1])) for step in range(3)]
    ways = [
        read.batches(requests, CPU),
        read.batches(requests, CPU, workers=2),
        kept.batches(requests, CPU),
        kept.batches(requests, CPU, data="device"),
    ]
    for plain, *others in zip(*map(list, ways), strict=True):
        assert plain.stored.dtype == torch.int16 and plain.stored.shape == (3, 1, *size)
        for other in others:
            for name, value in vars(plain).items():
                assert np.array_equal(value, getattr(other, name)), name
    with pytest.raises(StudyError, match=r"finetune\.data is device"):
        list(_huge(read).batches(requests, CPU, data="device"))


def _huge(images: CaseImages) -> CaseImages:
    return CaseImages(images.samples, images.rows, NetworkInput(2, 1, (2**20, 2**20), True))
