"""Classifications as a user of torch and scikit-learn writes them, beside the studies' fits from random weights.

None of medssl's code is used. A setting is a task of a study, by its name there (`spark.organs`): a ResNet-18 of its width and
stem on its images, parts and shares of the labels. `full` learns end to end with its steps, batch, rate, schedule and changes
of the images, and validation chooses the step. `linear` is a logistic regression on frozen random features, and validation
chooses its penalty. `knn` is their 20 nearest neighbours by cosine. A few images of each class replace shares in `few_shot`, and
`scanner_shift` is scored on the usual and the other vendor too. Subsets and weights are drawn by other generators than the
study's: scores agree within the spread over seeds, not to the digit.

`python benchmarks/baselines/classification.py spark.organs [--seeds 3]`; the last line is RESULT {json}.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "baselines"))
from recipe import RATE, calibrated, groups, mean_and_deviation, rate_at  # noqa: E402

SHARED = ROOT.parent / "shared" / "data"
COVID_PARTS = ROOT / "configs" / "studies" / "covid_ct_split.tsv"
IMAGES = {
    "organs": SHARED / "cls" / "organamnist" / "organamnist_13500.npz",
    "few organs": SHARED / "demo_sources" / "organamnist_2200.npz",
    "all organs": ROOT / "data" / "organamnist" / "organamnist.npz",
    "few of each organ": ROOT / "data" / "organamnist" / "few_shot.npz",
    "shifted organs": ROOT / "data" / "organamnist" / "few_shot_shifted.npz",
    "covid": SHARED / "cls" / "covid_ct",
    "scanners": ROOT / "data" / "scanner_shift" / "pictures",
}
MADE_BY = {
    "all organs": "organamnist",
    "few of each organ": "organamnist few-shot-organs",
    "shifted organs": "organamnist few-shot-organs",
    "scanners": "scanner-shift",
}
"""What makes images that are not there."""
PARTS = {"covid": COVID_PARTS, "scanners": ROOT / "data" / "scanner_shift" / "labels.csv"}
WEIGHT_DECAY = 1e-4
CALIBRATION_BATCHES = 8
SHIFT, TURN_DEG, ZOOM, JITTER = 0.08, 15.0, (0.87, 1.15), 0.2
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
NEIGHBOURS, TEMPERATURE = 20, 0.07


@dataclass(frozen=True)
class Setting:
    """A task of a study; steps, batch and evaluations are those of mode `full`."""

    images: str
    size: int
    modes: tuple[str, ...]
    shares: tuple[float, ...]
    width: float = 0.5
    small_stem: bool = False
    batch_size: int = 16
    steps: int = 300
    evaluations: int = 4
    counts: tuple[int, ...] = ()
    """Labelled images of each class, instead of shares."""


LEARNT = Setting("covid", 64, ("linear", "full"), (0.1, 0.3, 1.0))
QUARTER = Setting("organs", 28, ("full",), (0.05, 1.0), 0.25, True, 32, 600)
FROZEN = replace(QUARTER, images="all organs", modes=("linear", "knn"), shares=(0.01, 0.1, 1.0))
SETTINGS = {
    "tasks.covid": LEARNT,
    "tasks.organs": replace(LEARNT, images="few organs", size=28, shares=(0.05, 0.2, 1.0)),
    "reduction.organs": Setting("organs", 28, ("linear",), (0.25,)),
    "reduction.covid": Setting("covid", 64, ("linear",), (1.0,)),
    "objectives.organs": Setting("organs", 28, ("linear", "knn"), (0.05,)),
    "objectives.covid": replace(LEARNT, shares=(1.0,)),
    "spark.organs": QUARTER,
    "spark.covid": replace(QUARTER, images="covid", size=32, batch_size=16, steps=300),
    "organs.frozen": FROZEN,
    "organs.end_to_end": replace(QUARTER, images="all organs", shares=(1.0,), batch_size=64, steps=1200),
    "self_distillation.of_organs": FROZEN,
    "self_distillation.of_openkbp": replace(FROZEN, size=64, small_stem=False),
    "few_shot.own": replace(FROZEN, images="few of each organ", shares=(), counts=(1, 2, 5, 10)),
    "few_shot.shifted": replace(FROZEN, images="shifted organs", shares=(), counts=(1, 2, 5, 10)),
    "scanner_shift.plain": Setting("scanners", 64, ("full",), (1.0,)),
    "scanner_shift.frozen": Setting("scanners", 64, ("linear",), (1.0,)),
}


class Part(NamedTuple):
    """Images `(n, 1, h, w)` in 0…1, their class numbers, and their patients (an image without a patient is a unit by itself).

    pairing: of a table with such a column, whether a picture is of the `usual` vendor of its class or of the `other`; else empty.
    """

    images: Tensor
    classes: np.ndarray
    units: np.ndarray
    pairing: np.ndarray = np.empty(0, "<U8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("setting", choices=sorted(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--modes", nargs="+", help="of those of the setting")
    parser.add_argument("--shares", type=float, nargs="+", help="of the labels, of those of the setting")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--images", type=Path, help="an NPZ like OrganAMNIST's, or a folder of pictures")
    parser.add_argument("--parts", type=Path, help="of a folder: a table of file, label, subject and split")
    options = parser.parse_args()
    setting = SETTINGS[options.setting]
    place = options.images or IMAGES[setting.images]
    if not place.exists():
        raise SystemExit(f"{place} is not there" + (f": make {MADE_BY[setting.images]}" if setting.images in MADE_BY else ""))
    setting = replace(setting, **{name: given for name in ("modes", "shares", "steps") if (given := getattr(options, name))})
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    started_s, size = time.monotonic(), setting.size
    data = of_table(place, options.parts or PARTS[setting.images], size) if place.is_dir() else of_npz(place, size)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for mode in setting.modes:
            for amount in (*setting.shares, *setting.counts):
                row = scores_of_all(fitted(mode, data, amount, setting, seed), data["test"])
                print(json.dumps({"seed": seed, "mode": mode, "labels": in_words(amount)} | row), flush=True)
                for metric, value in row.items():
                    found.setdefault(metric, {}).setdefault(f"{mode} {in_words(amount)}", []).append(value)
    summary = {
        f"{metric}_mean_sd": {name: mean_and_deviation(each) for name, each in rows.items()} for metric, rows in found.items()
    }
    minutes = round((time.monotonic() - started_s) / 60, 1)
    test = {"num_test": len(data["test"].classes), "test_units": len(set(data["test"].units.tolist()))}
    length = {"seeds": options.seeds, "steps": setting.steps, "minutes": minutes}
    print("RESULT " + json.dumps({"setting": options.setting} | summary | test | length))


# Images


def of_npz(file: Path, size: int) -> dict[str, Part]:
    """The official parts of an NPZ like OrganAMNIST's, resized where its images have another size."""
    found = {}
    with np.load(file) as held:
        for part in ("train", "val", "test"):
            images = torch.from_numpy(held[f"{part}_images"][:, None] / np.float32(255))
            if images.shape[-1] != size:
                images = F.interpolate(images, (size, size), mode="bilinear")
            found[part] = Part(images, held[f"{part}_labels"][:, 0].astype(np.int64), np.arange(len(images)))
    return found


def of_table(folder: Path, table: Path, size: int) -> dict[str, Part]:
    """Pictures of a folder, `size` pixels wide and high, in the parts of a table."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="," if table.suffix == ".csv" else "\t"))
    names = sorted({row["label"] for row in rows})
    found = {}
    for part in ("train", "val", "test"):
        own = [row for row in rows if row["split"] == part]
        pictures = [Image.open(folder / row["file"]).convert("L").resize((size, size), Image.Resampling.BILINEAR) for row in own]
        images = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])[:, None] / np.float32(255))
        classes, patients = [names.index(row["label"]) for row in own], [row["subject"] for row in own]
        pairing = np.array([row["pairing"] for row in own if "pairing" in row], "<U8")
        found[part] = Part(images, np.array(classes), np.array(patients), pairing)
    return found


def in_words(amount: float) -> str:
    """`0.25`, a share of the labels, or `5 of each class`."""
    return f"{amount} of each class" if isinstance(amount, int) else f"{amount:g}"


def labelled(train: Part, amount: float, seed: int) -> Part:
    """A share of the patients, drawn evenly over the classes, or a whole number of images of each class."""
    if isinstance(amount, int):
        random = np.random.default_rng(seed)
        each = [random.permutation(np.flatnonzero(train.classes == one))[:amount] for one in np.unique(train.classes)]
        rows = np.sort(np.concatenate(each))
        return Part(train.images[torch.from_numpy(rows)], train.classes[rows], train.units[rows])
    if amount == 1:
        return train
    units, first = np.unique(train.units, return_index=True)
    count = math.floor(amount * len(units) + 0.5)
    chosen, _ = train_test_split(units, train_size=count, stratify=train.classes[first], random_state=seed)
    own = np.isin(train.units, chosen)
    return Part(train.images[torch.from_numpy(own)], train.classes[own], train.units[own])


# The network


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
    """He et al., arXiv 1512.03385, with the stem for ImageNet or the small one of section 4.2; a head on the last map's mean."""

    def __init__(self, width: float, small_stem: bool, num_classes: int) -> None:
        super().__init__()
        widths = [round(width * channels) for channels in (64, 128, 256, 512)]
        side, stride = (3, 1) if small_stem else (7, 2)
        layers: list[nn.Module] = [nn.Conv2d(1, widths[0], side, stride, side // 2, bias=False), nn.BatchNorm2d(widths[0])]
        layers += [nn.ReLU()] if small_stem else [nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        for stage, (before, after) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            layers += [Block(before, after, 1 if stage == 0 else 2), Block(after, after, 1)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """The mean of the deepest map."""
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.features(x))


def fitted(mode: str, data: dict[str, Part], amount: float, setting: Setting, seed: int) -> np.ndarray:
    """Probabilities `(n, classes)` of the test images after one fit."""
    torch.manual_seed(seed)
    network = ResNet18(setting.width, setting.small_stem, int(data["train"].classes.max()) + 1)
    train = labelled(data["train"], amount, seed)
    if mode == "full":
        return end_to_end(network, train, data["val"], data["test"], setting, seed)
    known = [features(network, part.images) for part in (train, data["val"], data["test"])]
    if mode == "knn":
        return nearest(known[0], train.classes, known[2], network.head.out_features)
    return linear((known[0], train.classes), (known[1], data["val"].classes), known[2], network.head.out_features)


def scores(probabilities: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Macro AUC, each class against the rest, and accuracy."""
    given = np.eye(probabilities.shape[1], dtype=int)[classes]
    accuracy = float((probabilities.argmax(1) == classes).mean())
    return {"auc": round(float(roc_auc_score(given, probabilities, average="macro")), 4), "accuracy": round(accuracy, 4)}


def scores_of_all(probabilities: np.ndarray, test: Part) -> dict[str, float]:
    """Scores of all test images, and of those of each pairing."""
    found = scores(probabilities, test.classes)
    for pairing in np.unique(test.pairing):
        own = test.pairing == pairing
        found |= {f"{metric}_{pairing}": value for metric, value in scores(probabilities[own], test.classes[own]).items()}
    return found


# End to end


def end_to_end(network: ResNet18, train: Part, val: Part, test: Part, setting: Setting, seed: int) -> np.ndarray:
    """Train all weights; the step with the best macro AUC of validation predicts."""
    random = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(groups(network, WEIGHT_DECAY), RATE)
    targets, batches = torch.from_numpy(train.classes), batches_of(len(train.classes), setting.batch_size, random)
    best, best_score = network, -1.0
    for step in range(setting.steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * rate_at(step, setting.steps)
        chosen = next(batches)
        network.train()
        loss = F.cross_entropy(network(changed(train.images[chosen], random)), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % max(1, setting.steps // setting.evaluations) == 0:
            kept = calibrated(network, [changed(train.images[next(batches)], random) for _ in range(CALIBRATION_BATCHES)])
            score = scores(probabilities(kept, val.images), val.classes)["auc"]
            if score > best_score:
                best, best_score = kept, score
    return probabilities(best, test.images)


def batches_of(count: int, batch_size: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of an endless row of shuffled passes."""
    row = np.empty(0, int)
    while True:
        while len(row) < batch_size:
            row = np.concatenate([row, random.permutation(count)])
        yield row[:batch_size]
        row = row[batch_size:]


def changed(images: Tensor, random: np.random.Generator) -> Tensor:
    """Each image shifted, turned, zoomed, and the middle (by half of `JITTER`) and width of its window changed a little."""
    count = len(images)
    angle = np.deg2rad(random.uniform(-TURN_DEG, TURN_DEG, count))
    side = np.exp(random.uniform(math.log(ZOOM[0]), math.log(ZOOM[1]), count))
    shift = 2 * random.uniform(-SHIFT, SHIFT, (count, 2))
    cosine, sine = side * np.cos(angle), side * np.sin(angle)
    affine = np.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(torch.from_numpy(affine).float(), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    middle, width = (torch.from_numpy(random.uniform(-JITTER, JITTER, (count, 1, 1, 1))).float() for _ in range(2))
    return ((moved - 0.5 - middle / 2) / (1 + width) + 0.5).clamp(0, 1)


def probabilities(network: ResNet18, images: Tensor) -> np.ndarray:
    """Class probabilities `(n, classes)`."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part).softmax(1) for part in images.split(256)]).numpy().astype(np.float64)


# Frozen random weights


def features(network: ResNet18, images: Tensor) -> np.ndarray:
    """The means of the deepest maps `(n, channels)`."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network.features(part) for part in images.split(256)]).numpy().astype(np.float64)


def linear(
    train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray], test: np.ndarray, num_classes: int
) -> np.ndarray:
    """Test probabilities of a logistic regression on standardised features, the penalty with the best macro AUC of validation."""
    scaler = StandardScaler().fit(train[0])
    model, best, best_score = LogisticRegression(max_iter=300, warm_start=True), np.empty(0), -1.0
    for penalty in PENALTIES:
        model.set_params(C=penalty).fit(scaler.transform(train[0]), train[1])
        of_val, of_test = np.zeros((len(val[0]), num_classes)), np.zeros((len(test), num_classes))
        for found, asked in ((of_val, val[0]), (of_test, test)):
            found[:, model.classes_] = model.predict_proba(scaler.transform(asked))
        score = scores(of_val, val[1])["auc"]
        if score > best_score:
            best, best_score = of_test, score
    return best


def nearest(known: np.ndarray, classes: np.ndarray, asked: np.ndarray, num_classes: int) -> np.ndarray:
    """Weighted vote of the nearest training images by cosine (Wu et al., arXiv 1805.01978)."""
    known, asked = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (known, asked))
    votes = np.zeros((len(asked), num_classes))
    for start in range(0, len(asked), 512):
        alike = asked[start : start + 512] @ known.T
        near = np.argpartition(-alike, min(NEIGHBOURS, alike.shape[1]) - 1, axis=1)[:, :NEIGHBOURS]
        weight = np.exp((np.take_along_axis(alike, near, 1) - 1) / TEMPERATURE)
        votes[start : start + 512] = np.stack([(weight * (classes[near] == k)).sum(1) for k in range(num_classes)], 1)
    return votes / votes.sum(1, keepdims=True)


if __name__ == "__main__":
    main()
