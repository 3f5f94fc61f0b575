"""Eleven organs as a user of torch and scikit-learn writes it, beside the study `organs`: none of medssl's code.

A ResNet-18 of a quarter of the width with a 3 × 3 stem, on the official parts of OrganAMNIST at 28 × 28: (a) from scratch end to
end, with the study's steps, batch, rate, schedule and changes of the images, the step chosen by validation; (b) random weights
frozen, a logistic regression whose penalty validation chooses, and 20 nearest neighbours by cosine, on 1, 10 and 100 % of the
labels. Subsets and weights are drawn by other generators than the study's, so scores agree within the spread over seeds, not to
the digit.

`python benchmarks/baselines/organs.py [--seeds 3] [--steps 1200]`; the last line is RESULT {json}.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "data" / "organamnist" / "organamnist.npz"
WIDTHS = (16, 32, 64, 128)
CLASSES = 11
BATCH, RATE, WEIGHT_DECAY, WARMUP_FRAC, EVALUATIONS = 64, 1e-3, 1e-4, 0.1, 4
CALIBRATION_BATCHES = 8
SHIFT, TURN_DEG, ZOOM, JITTER = 0.08, 15.0, 0.15, 0.2
SHARES = (0.01, 0.1, 1.0)
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
NEIGHBOURS, TEMPERATURE = 20, 0.07


class Block(nn.Module):
    """Two 3 × 3 convolutions and a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = (
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
        )
        self.norm_one, self.norm_two = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps."""
        inner = self.norm_two(self.two(F.relu(self.norm_one(self.one(x)))))
        return F.relu(inner + self.shortcut(x))


class ResNet18(nn.Module):
    """He et al., arXiv 1512.03385, with the stem of its section 4.2, `head` on the mean of the deepest map."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
        before = WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            layers += [Block(before, width, 1 if stage == 0 else 2), Block(width, width, 1)]
            before = width
        self.body, self.head = nn.Sequential(*layers), nn.Linear(before, CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """The mean of the deepest map `(n, 128)`."""
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.features(x))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200, help="of the fit end to end; 0 leaves it out")
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args()
    if not options.file.is_file():
        raise SystemExit(f"{options.file} is not there: make organamnist")
    torch.set_num_threads(1)
    started_s, data = time.monotonic(), parts(options.file)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        if options.steps:
            rows.append({"seed": seed, "mode": "full", "share": 1.0} | end_to_end(data, options.steps, seed))
            print(rows[-1], flush=True)
        for row in frozen(data, seed):
            rows.append({"seed": seed} | row)
            print(rows[-1], flush=True)
    means: dict[str, list[float]] = {}
    for row in rows:
        means.setdefault(f"{row['mode']} {row['share']:g}", []).append(row["accuracy"])
    summary = {name: [round(float(np.mean(found)), 4), round(float(np.std(found)), 4)] for name, found in means.items()}
    minutes = round((time.monotonic() - started_s) / 60, 1)
    print(
        "RESULT " + json.dumps({"accuracy_mean_sd": summary, "seeds": options.seeds, "steps": options.steps, "minutes": minutes})
    )


def parts(file: Path) -> dict[str, tuple[Tensor, np.ndarray]]:
    """Images `(n, 1, 28, 28)` in 0…1 and classes of each part."""
    found = {}
    with np.load(file) as held:
        for part in ("train", "val", "test"):
            images = torch.from_numpy(held[f"{part}_images"][:, None] / np.float32(255))
            found[part] = images, held[f"{part}_labels"][:, 0].astype(np.int64)
    return found


# End to end


def end_to_end(data: dict[str, tuple[Tensor, np.ndarray]], steps: int, seed: int) -> dict[str, Any]:
    """Learn from all labels; test accuracy of the step with the best macro AUC of validation."""
    torch.manual_seed(seed)
    network, random = ResNet18(), np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    images, classes = data["train"]
    targets = torch.from_numpy(classes)
    best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})
    curve = []
    order = np.empty(0, int)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * rate_at(step, steps)
        if len(order) < BATCH:
            order = np.concatenate([order, random.permutation(len(images))])
        chosen, order = order[:BATCH], order[BATCH:]
        network.train()
        loss = F.cross_entropy(network(changed(images[chosen], random)), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % max(1, steps // EVALUATIONS) == 0:
            kept = calibrated(network, images, random)
            score = float(roc_auc_score(data["val"][1], probabilities(kept, data["val"][0]), multi_class="ovr"))
            curve.append(round(score, 4))
            if score > best[0]:
                best = (score, step + 1, copy.deepcopy(kept.state_dict()))
    network.load_state_dict(best[2])
    called = probabilities(network, data["test"][0]).argmax(1)
    return {"accuracy": float((called == data["test"][1]).mean()), "best_step": best[1], "val_auc": curve}


def rate_at(step: int, steps: int) -> float:
    """Share of the peak rate: linear warm-up, then half a cosine."""
    warmup = round(WARMUP_FRAC * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def changed(images: Tensor, random: np.random.Generator) -> Tensor:
    """Each image shifted, turned, zoomed, and its brightness and contrast changed a little."""
    count = len(images)
    angle = np.deg2rad(random.uniform(-TURN_DEG, TURN_DEG, count))
    zoom = 1 / random.uniform(1 - ZOOM, 1 + ZOOM, count)
    shift = 2 * random.uniform(-SHIFT, SHIFT, (count, 2))
    cosine, sine = zoom * np.cos(angle), zoom * np.sin(angle)
    affine = np.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(torch.from_numpy(affine).float(), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    low, high = (torch.from_numpy(random.uniform(-JITTER, JITTER, (count, 1, 1, 1))).float() for _ in range(2))
    return ((moved - low) / (1 + high - low)).clamp(0, 1)


def calibrated(network: ResNet18, images: Tensor, random: np.random.Generator) -> ResNet18:
    """The network with the batch-norm statistics of some training batches (PreciseBN)."""
    kept = copy.deepcopy(network).train()
    norms = [module for module in kept.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for _ in range(CALIBRATION_BATCHES):
            kept(changed(images[random.choice(len(images), BATCH, replace=False)], random))
    for norm in norms:
        norm.momentum = 0.1
    return kept


def probabilities(network: ResNet18, images: Tensor) -> np.ndarray:
    """Class probabilities `(n, 11)`."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part).softmax(1) for part in images.split(256)]).numpy().astype(np.float64)


# Frozen random weights


def frozen(data: dict[str, tuple[Tensor, np.ndarray]], seed: int) -> list[dict[str, Any]]:
    """Test accuracies of the probe and of the neighbours on each share of the labels."""
    torch.manual_seed(1000 + seed)
    network = ResNet18().eval()
    known = {}
    with torch.no_grad():
        for part, (images, _) in data.items():
            known[part] = torch.cat([network.features(piece) for piece in images.split(256)]).numpy()
    order = np.random.default_rng(seed).permutation(len(data["train"][1]))
    rows = []
    for share in SHARES:
        chosen = order[: round(share * len(order))]
        train = known["train"][chosen], data["train"][1][chosen]
        rows.append({"mode": "linear", "share": share, "accuracy": linear(train, known, data)})
        rows.append({"mode": "knn", "share": share, "accuracy": nearest(train, known["test"], data["test"][1])})
    return rows


def linear(
    train: tuple[np.ndarray, np.ndarray], known: dict[str, np.ndarray], data: dict[str, tuple[Tensor, np.ndarray]]
) -> float:
    """Logistic regression on standardised features, the penalty with the best macro AUC of validation."""
    scaler = StandardScaler().fit(train[0])
    best = (-1.0, float("nan"))
    model = LogisticRegression(max_iter=300, warm_start=True)
    for penalty in PENALTIES:
        model.set_params(C=penalty).fit(scaler.transform(train[0]), train[1])
        chances = np.zeros((len(known["val"]), CLASSES))
        chances[:, model.classes_] = model.predict_proba(scaler.transform(known["val"]))
        score = roc_auc_score(data["val"][1], chances, multi_class="ovr")
        best = max(best, (float(score), float((model.predict(scaler.transform(known["test"])) == data["test"][1]).mean())))
    return best[1]


def nearest(train: tuple[np.ndarray, np.ndarray], features: np.ndarray, classes: np.ndarray) -> float:
    """Weighted vote of the nearest training images by cosine (Wu et al., arXiv 1805.01978)."""
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train[0], features)]
    right = 0
    for start in range(0, len(features), 512):
        alike = unit[1][start : start + 512] @ unit[0].T
        near = np.argpartition(-alike, min(NEIGHBOURS, alike.shape[1]) - 1, axis=1)[:, :NEIGHBOURS]
        weight = np.exp((np.take_along_axis(alike, near, 1) - 1) / TEMPERATURE)
        votes = np.stack([(weight * (train[1][near] == k)).sum(1) for k in range(CLASSES)], 1)
        right += int((votes.argmax(1) == classes[start : start + 512]).sum())
    return right / len(features)


if __name__ == "__main__":
    main()
