"""Views per second, 512² to 224² and one channel, with the operations that all sides have.

A random resized crop, a turn of up to 15°, a mirror of one in two, brightness and contrast, a Gaussian blur of one in two.

Ours makes the views of a batch with all threads. The peers make them one by one: in one process, and in as many worker processes
as there are threads, which is what their users do for speed. Images lie in memory: ours as stored numbers, which it windows too,
the peers' windowed already, and lightly's as 8-bit PIL images, which is what it works on.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from monai import transforms
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from medssl.nn.loading import Reader, Samples
from medssl.nn.options import ViewOptions
from medssl.nn.views import Crop, Views

SAME_OPERATIONS = ViewOptions(flip={"CT": ["i"]}, gamma=1, noise=0)
TURN_DEG, JITTER = SAME_OPERATIONS.rotation_deg, SAME_OPERATIONS.window_jitter
SIZE = 224
SCALE = SAME_OPERATIONS.scale
SIGMA = (0.1, SAME_OPERATIONS.blur_sigma_frac * SIZE)


def view_rates(samples: Samples, device: str, missing: list[str], *, batch_size: int, repeats: int) -> dict[str, Any]:
    """Views per second of every side, and ours as a multiple of each; sides take turns.

    Processor time, which work beside this process disturbs less, is of this process alone, without workers.
    """
    batch = Reader(samples)[(0, np.arange(batch_size) % len(samples))].to(device)
    views = Views(SAME_OPERATIONS, [Crop(2, (SIZE, SIZE))], samples, seed=0)
    planes = ((batch.values.cpu() + 1000) / 2000).clamp(0, 1)
    pairs = {"monai": Pairs(list(planes), monai_chain())}
    if "torchvision" not in missing:
        pairs["torchvision"] = Pairs(list(planes), torchvision_chain())
    if not missing:
        pairs["lightly"] = Pairs([Image.fromarray((plane[0] * 255).byte().numpy()) for plane in planes], lightly_chain())
    workers = torch.get_num_threads()

    def ours() -> None:
        views(batch)
        if device == "cuda":
            torch.cuda.synchronize()

    one = {name: partial(one_by_one, each) for name, each in pairs.items()}
    many = {f"{name}, workers": partial(one_by_one, in_workers(each, workers)) for name, each in pairs.items()}
    sides: dict[str, Callable[[], None]] = {"medssl": ours, **one, **many}
    spent: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):  # the first only warms up
        for name, work in sides.items():
            start_s, begun_s = time.perf_counter(), time.process_time()
            work()
            spent[name].append(time.perf_counter() - start_s)
            processor[name].append(time.process_time() - begun_s)
    rates = {name: 2 * batch_size / min(seconds[1:]) for name, seconds in spent.items()}
    return {
        "views_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio": {name: round(rates["medssl"] / rates[name], 2) for name in pairs},
        "ratio_by_processor_time": {name: round(min(processor[name][1:]) / min(processor["medssl"][1:]), 2) for name in pairs},
        "ratio_to_workers": {name: round(rates["medssl"] / rates[f"{name}, workers"], 2) for name in pairs},
        "workers": workers,
    }


def one_by_one(images: Iterable[Any]) -> None:
    """All of them."""
    for _ in images:
        pass


def in_workers(pairs: Pairs, workers: int) -> DataLoader[Any]:
    """The same pairs, eight at a time, from worker processes that stay."""
    return DataLoader(pairs, batch_size=8, num_workers=workers, persistent_workers=True, multiprocessing_context="fork")


class Pairs(Dataset[Any]):
    """Two views of each image."""

    def __init__(self, images: list[Any], chain: Callable[[Any], Any]) -> None:
        self.images, self.chain = images, chain

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return [torch.as_tensor(self.chain(self.images[index])) for _ in range(2)]


def monai_chain() -> Callable[[Any], Any]:
    """MONAI's operations on a tensor `(1, 512, 512)`."""
    return transforms.Compose(
        [
            transforms.RandSpatialCrop((round(512 * SCALE[0] ** 0.5),) * 2, max_roi_size=(512, 512), random_size=True),
            transforms.Resize((SIZE, SIZE), mode="bilinear"),
            transforms.RandRotate(range_x=np.radians(TURN_DEG), prob=1),
            transforms.RandFlip(prob=0.5, spatial_axis=0),
            transforms.RandScaleIntensity(JITTER, prob=1),
            transforms.RandShiftIntensity(JITTER, prob=1),
            transforms.RandGaussianSmooth(SIGMA, SIGMA, prob=SAME_OPERATIONS.blur_prob),
        ]
    )


def torchvision_chain() -> Callable[[Any], Any]:
    """The operations of torchvision on a tensor `(1, 512, 512)`; its kernel reaches four deviations, as the others' do."""
    from torchvision.transforms import v2

    kernel = 2 * int(np.ceil(4 * SIGMA[1])) + 1
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, SCALE),
            v2.RandomRotation(TURN_DEG, v2.InterpolationMode.BILINEAR),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(JITTER, JITTER),
            v2.RandomApply([v2.GaussianBlur(kernel, SIGMA)], SAME_OPERATIONS.blur_prob),
        ]
    )


def lightly_chain() -> Callable[[Any], Any]:
    """The parts of lightly's SimCLR transform that all sides have, in its order, on a grey PIL image."""
    from lightly.transforms.gaussian_blur import GaussianBlur
    from lightly.transforms.rotation import random_rotation_transform
    from lightly.transforms.torchvision_v2_compatibility import torchvision_transforms as T

    return T.Compose(
        [
            T.RandomResizedCrop(size=SIZE, scale=SCALE),
            random_rotation_transform(rr_prob=1, rr_degrees=TURN_DEG),
            T.RandomHorizontalFlip(),
            T.ColorJitter(JITTER, JITTER),
            GaussianBlur(prob=SAME_OPERATIONS.blur_prob, sigmas=SIGMA),
            T.ToTensor(),
        ]
    )


def batched_rates(samples: Samples, device: str, *, batch_size: int, repeats: int) -> dict[str, Any]:
    """Views per second of a whole batch at a time on the device: ours, by the same operations and as a study has them by default,
    and kornia's, where it is importable, on values that lie there windowed already."""
    batch = Reader(samples)[(0, np.arange(batch_size) % len(samples))].to(device)
    same, usual = (Views(options, [Crop(2, (SIZE, SIZE))], samples, seed=0) for options in (SAME_OPERATIONS, ViewOptions()))
    sides: dict[str, Callable[[], Any]] = {"medssl": lambda: same(batch), "medssl, its default views": lambda: usual(batch)}
    if importlib.util.find_spec("kornia") is not None:
        values, chain = ((batch.values + 1000) / 2000).clamp(0, 1), kornia_chain().to(device)
        sides["kornia"] = lambda: [chain(values) for _ in range(2)]
    least: dict[str, float] = {}
    for turn in range(repeats + 1):  # the first only warms up
        for name, work in sides.items():
            start_s = time.perf_counter()
            with torch.no_grad():
                work()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                least[name] = min(least.get(name, np.inf), time.perf_counter() - start_s)
    found: dict[str, Any] = {"views_per_s": {name: round(2 * batch_size / spent_s, 1) for name, spent_s in least.items()}}
    if "kornia" in least:
        return found | {"ratio_to_kornia": round(least["kornia"] / least["medssl"], 2)}
    return found | {"left_out": "kornia not importable here"}


def kornia_chain() -> torch.nn.Module:
    """Kornia's operations on a batch `(n, 1, 512, 512)`."""
    from kornia import augmentation as K

    kernel = 2 * int(np.ceil(4 * SIGMA[1])) + 1
    return torch.nn.Sequential(
        K.RandomResizedCrop((SIZE, SIZE), scale=SCALE),
        K.RandomRotation(TURN_DEG, p=1.0),
        K.RandomHorizontalFlip(),
        K.RandomBrightness((1 - JITTER, 1 + JITTER), p=1.0),
        K.RandomContrast((1 - JITTER, 1 + JITTER), p=1.0),
        K.RandomGaussianBlur((kernel, kernel), SIGMA, p=SAME_OPERATIONS.blur_prob),
    )
