"""Probabilities of whole scans: those of MONAI's sliding window, whatever other scans share the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from finetuning import NARROW, scan
from monai.inferers import sliding_window_inference

from medssl.finetune.inference import Inference
from medssl.finetune.patches import Patches
from medssl.finetune.scans import Scan, places_of
from medssl.finetune.segmenter import Segmenter
from medssl.nn.backbone import build

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [(16, 16), (24, 8), (16, 16, 8)])
def test_windows_are_blended_as_monai_blends_them(size: tuple[int, ...]) -> None:
    network = Segmenter(build("resnet18", NARROW, len(size), 1), 3).eval()
    scans = [scan(n, shape=(20 - 3 * n, 18 + n, 12)) for n in range(3)]
    answers = list(Inference(network, size, CPU, overlap=0.5, flips=False).probabilities(scans))
    assert [one for one, _ in answers] == scans
    for one, found in answers:
        images = one.seen(CPU)[None] if len(size) == 3 else one.seen(CPU).movedim(-1, 0)
        with torch.inference_mode():
            expected = sliding_window_inference(images, size, 4, network, overlap=0.5, mode="gaussian").softmax(dim=1)
        expected = expected[0] if len(size) == 3 else expected.movedim(0, -1)
        assert found.shape == (3, *one.shape)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (16, 16, 4)])
def test_a_mirrored_scan_has_the_mirrored_answer_where_all_mirrors_are_seen(size: tuple[int, ...]) -> None:
    network = Segmenter(build("resnet18", NARROW, len(size), 1), 3)
    whole = scan(shape=(16, 16, 4))
    mirrored = Scan(whole.volume, whole.image[::-1].copy(), whole.mask[::-1].copy(), np.eye(4))
    for flips, same in ((True, True), (False, False)):
        (_, one), (_, other) = Inference(network, size, CPU, overlap=0.5, flips=flips).probabilities([whole, mirrored])
        assert torch.allclose(one, other.flip(1), atol=1e-5) == same
        torch.testing.assert_close(one.sum(0), torch.ones(whole.shape))


def test_beyond_a_small_scan_lies_the_low_end_of_its_first_window_in_every_window() -> None:
    """As in the training patches."""
    small = scan(shape=(8, 8, 4))
    volume = replace(small.volume, low=(-160.0, -1350.0), high=(240.0, 150.0))
    one = Scan(volume, small.image, small.mask, np.eye(4))
    seen: list[torch.Tensor] = []

    class Seen(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images

    list(Inference(Seen(), (16, 12), CPU, overlap=0.5, flips=False).probabilities([one]))
    patch = Patches([one], [places_of(one, [1], 0)], [0, 1], (16, 12, 1), (0, 0, 0), count=1, foreground_frac=0.0, seed=0)
    learnt = patch[0, np.zeros(0, np.int64)].seen
    for corner in (torch.cat(seen)[:, :, 0, 0], learnt[:, :, 0, 0]):
        torch.testing.assert_close(corner, torch.tensor([[0.0, 1190 / 1500]]).expand(len(corner), 2))
    torch.testing.assert_close(torch.cat(seen)[:, :, 4:12, 2:10], one.seen(CPU).movedim(-1, 0))
