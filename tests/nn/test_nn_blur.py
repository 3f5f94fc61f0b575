"""The blur of each image is a Gaussian of its own width, and uses only pixels inside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medssl.nn.blur import Blur


def test_blur_is_a_gaussian_that_keeps_constants() -> None:
    impulse = torch.zeros(2, 1, 31, 31)
    impulse[:, :, 15, 15] = 1
    blurred = Blur(torch.tensor([2.0, 0.0]) / 31, 8 / 31, (31, 31))(impulse, slice(0, 2))
    at = torch.exp(-((torch.arange(31) - 15.0) ** 2) / 8)
    assert torch.allclose(blurred[0, 0], torch.outer(at, at) / at.sum() ** 2, atol=1e-4)
    assert torch.equal(blurred[1], impulse[1])
    ones = torch.ones(1, 1, 9, 9)
    assert torch.allclose(Blur(torch.tensor([1 / 3]), 4 / 3, (9, 9))(ones, slice(0, 1)), ones, atol=1e-6)


@pytest.mark.parametrize("size", [(75, 6), (6, 75), (75, 4, 5), (4, 75, 5), (4, 5, 75)])
def test_blur_of_a_long_axis_is_the_weighted_mean_of_what_lies_inside(size: tuple[int, ...]) -> None:
    sigmas, reach = [0.3, 1.5, 2.5], 10 / 75
    images = torch.rand(3, 2, *size)
    found = Blur(torch.tensor(sigmas) / 75, reach, size)(images, slice(0, 3))
    for image, blurred, sigma in zip(images, found, sigmas, strict=True):
        expected = image.double().numpy()
        for axis, side in enumerate(size, 1):
            away = np.subtract.outer(np.arange(side), np.arange(side))
            weights = np.where(abs(away) <= max(1, np.ceil(reach * side)), np.exp(-(away**2) / (2 * (sigma / 75 * side) ** 2)), 0)
            expected = np.moveaxis(np.tensordot(weights / weights.sum(1, keepdims=True), expected, (1, axis)), 0, axis)
        np.testing.assert_allclose(blurred.numpy(), expected, atol=2e-6)


def test_images_that_come_some_at_a_time_have_the_blur_of_their_rows() -> None:
    images = torch.rand(5, 1, 40, 8)
    blur = Blur(torch.tensor([0.0, 0.01, 0.02, 0.03, 0.04]), 0.16, (40, 8))
    whole = blur(images, slice(0, 5))
    parts = torch.cat([blur(images[:2], slice(0, 2)), blur(images[2:], slice(2, 5))])
    assert torch.allclose(whole, parts, atol=1e-6)
    assert torch.equal(whole[0], images[0]) and not torch.allclose(whole[1:], images[1:], atol=1e-3)
