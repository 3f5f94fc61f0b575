"""Simple classifiers for benchmarks/leaked_benchmarks.py: nearest neighbours, linear probes, and a small network from scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from medssl.nn.backbone import Backbone, build, pooled

Call = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
"""From training images `(n, side, side)` and classes `(n,)`, test images and a seed to the classes of the test images."""
BATCH = 256
STEPS, STEP_BATCH, RATE = 200, 16, 1e-3
SIDE = 32
NETWORK = {"stem": "small", "width": 0.25}


@dataclass(frozen=True)
class Method:
    """A classifier, and the sets that it is asked on."""

    title: str
    call: Call
    sets: tuple[str, ...] = ("COVID-CT", "OrganAMNIST")
    is_slow: bool = False


def nearest(train: np.ndarray, classes: np.ndarray, test: np.ndarray, seed: int, *, neighbours: int) -> np.ndarray:
    """Vote of the nearest training images by their pixels."""
    flat = [part.reshape(len(part), -1) for part in (train, test)]
    return KNeighborsClassifier(neighbours, weights="distance", algorithm="brute").fit(flat[0], classes).predict(flat[1])


def linear_pixels(train: np.ndarray, classes: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Logistic regression on pixels, at most 28 along a side."""
    small = [F.adaptive_avg_pool2d(torch.from_numpy(part)[:, None], 28).flatten(1).numpy() for part in (train, test)]
    return _probe(small[0], classes, small[1])


def linear_frozen(train: np.ndarray, classes: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Logistic regression on what a ResNet-18 with random weights makes of the images."""
    torch.manual_seed(seed)
    network = build("resnet18", NETWORK, 2, 1).eval()
    return _probe(features(network, train), classes, features(network, test))


def from_scratch(train: np.ndarray, classes: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """A ResNet-18 of a quarter of the width from random weights at 32 × 32, mirrored and shifted; the last of 200 steps of 16."""
    train, test = (F.adaptive_avg_pool2d(torch.from_numpy(part)[:, None], SIDE)[:, 0].numpy() for part in (train, test))
    torch.manual_seed(seed)
    network = build("resnet18", NETWORK, 2, 1)
    head = nn.Linear(network.channels[-1], int(classes.max()) + 1)
    parameters = [*network.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    images, targets = torch.from_numpy(train)[:, None], torch.from_numpy(classes)
    random = np.random.default_rng(seed)
    network.train()
    for _ in range(STEPS):
        chosen = random.choice(len(images), min(STEP_BATCH, len(images)), replace=False)
        moved = torch.roll(images[chosen], tuple(random.integers(-2, 3, 2).tolist()), (2, 3))
        moved = moved.flip(3) if random.random() < 0.5 else moved
        loss = F.cross_entropy(head(pooled(network(moved - 0.5))), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        return head(torch.from_numpy(features(network, test))).argmax(1).numpy()


def features(network: Backbone, images: np.ndarray) -> np.ndarray:
    """The averaged deepest map of each image `(n, d)`."""
    with torch.no_grad():
        parts = [pooled(network(torch.from_numpy(images[k : k + BATCH])[:, None] - 0.5)) for k in range(0, len(images), BATCH)]
    return torch.cat(parts).numpy()


def _probe(train: np.ndarray, classes: np.ndarray, test: np.ndarray) -> np.ndarray:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
    return model.fit(train, classes).predict(test)


METHODS = (
    Method("nearest pixels, 1 neighbour", partial(nearest, neighbours=1)),
    Method("nearest pixels, 5 neighbours", partial(nearest, neighbours=5)),
    Method("linear, pixels", linear_pixels),
    Method("linear, ResNet-18 with random weights", linear_frozen),
    Method("ResNet-18 from scratch", from_scratch, sets=("COVID-CT",), is_slow=True),
)
